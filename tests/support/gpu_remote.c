/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu_engine.h"

/* ---- the side that gives orders ---- */

int gpu_remote_send(const struct gpu_remote *remote, const struct gpu_order *order)
{
    return send(remote->fd, order, sizeof(*order), MSG_NOSIGNAL) == (ssize_t)sizeof(*order)
               ? 0
               : -ECONNRESET;
}

int gpu_remote_answer(const struct gpu_remote *remote, struct gpu_answer *answer_out)
{
    return recv(remote->fd, answer_out, sizeof(*answer_out), MSG_WAITALL) ==
                   (ssize_t)sizeof(*answer_out)
               ? 0
               : -ECONNRESET;
}

int gpu_remote_order(const struct gpu_remote *remote, const struct gpu_order *order,
                     struct gpu_answer *answer_out)
{
    int r = gpu_remote_send(remote, order);

    return r == 0 ? gpu_remote_answer(remote, answer_out) : r;
}

void gpu_remote_start(struct gpu_remote *remote, const struct gpu_engine_setup *setup,
                      struct gpu_answer *answer_out)
{
    const struct gpu_order order = {.op = GPU_ORDER_OPEN, .setup = *setup};

    remote->pid = gpu_rig_spawn("engine", &remote->fd);
    if (gpu_remote_order(remote, &order, answer_out) < 0) {
        gpu_rig_die("an engine does not start", 0);
    }
}

void gpu_remote_end(struct gpu_remote *remote)
{
    const struct gpu_order order = {.op = GPU_ORDER_CLOSE};
    struct gpu_answer answer;

    if (remote->pid == 0) {
        return;
    }
    if (gpu_remote_order(remote, &order, &answer) < 0) {
        gpu_rig_die("an engine is gone", 0);
    }
    gpu_rig_reap(remote->pid, remote->fd);
    remote->pid = 0;
}

void gpu_remote_kill(struct gpu_remote *remote)
{
    (void)kill(remote->pid, SIGKILL);
    (void)waitpid(remote->pid, NULL, 0);
    close(remote->fd);
    remote->pid = 0;
}

/* ---- the engine ---- */

static uint32_t bits_of(const struct gpu_engine *engine, uint32_t count)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < count && i < GPU_RIG_CHUNKS; i++) {
        bits |= (uint32_t)(engine->status[i] == 0) << i;
    }
    return bits;
}

static void serve_move(struct gpu_engine *engine, const struct gpu_order *order,
                       struct gpu_answer *answer)
{
    answer->r = order->op == GPU_ORDER_SAVE ? gpu_engine_save(engine, order->count)
                : order->op == GPU_ORDER_LOAD
                    ? gpu_engine_load(engine, order->count)
                    : gpu_engine_load_layers(engine, order->count, order->salt, &answer->value);
    answer->chunks = answer->r < 0 ? 0 : bits_of(engine, order->count);
    for (uint32_t i = 0; order->op != GPU_ORDER_SAVE && i < order->count; i++) {
        answer->near |= (uint32_t)(engine->location[i] == KVL_LOCATION_LOCAL) << i;
    }
}

static void serve_blocks(struct gpu_engine *engine, const struct gpu_order *order,
                         struct gpu_answer *answer)
{
    for (uint32_t i = 0; i < GPU_RIG_CHUNKS; i++) {
        if (order->op == GPU_ORDER_FILL && i < order->count) {
            gpu_view_fill(engine->rig, &engine->view, i, order->salt);
        } else if (order->op == GPU_ORDER_DIFFERS && (order->chunks & 1u << i) != 0) {
            answer->value += gpu_view_differs(engine->rig, &engine->view, i, order->salt);
        }
    }
}

static void serve_order(struct gpu_engine *engine, struct gpu_rig *rig,
                        const struct gpu_order *order, struct gpu_answer *answer)
{
    switch (order->op) {
    case GPU_ORDER_OPEN:
        gpu_rig_open(rig, order->setup.layers);
        gpu_engine_open(engine, rig, &order->setup, NULL);
        gpu_engine_address(engine, answer->address, sizeof(answer->address));
        break;
    case GPU_ORDER_FILL:
    case GPU_ORDER_DIFFERS:
        serve_blocks(engine, order, answer);
        break;
    case GPU_ORDER_SAVE:
    case GPU_ORDER_LOAD:
    case GPU_ORDER_LAYERS:
        serve_move(engine, order, answer);
        break;
    case GPU_ORDER_REMOVE:
        answer->r = gpu_engine_remove(engine, order->count);
        break;
    case GPU_ORDER_STAT:
        answer->value = gpu_engine_stat(engine, order->name);
        break;
    case GPU_ORDER_AWAIT:
        answer->r = gpu_engine_await(engine, order->name, order->value);
        break;
    case GPU_ORDER_CLOSE:
        gpu_engine_close(engine);
        gpu_rig_close(rig);
        break;
    }
}

int gpu_engine_serve(void)
{
    static struct gpu_engine engine;
    static struct gpu_rig rig;
    struct gpu_order order;

    while (recv(3, &order, sizeof(order), MSG_WAITALL) == (ssize_t)sizeof(order)) {
        struct gpu_answer answer = {0};

        serve_order(&engine, &rig, &order, &answer);
        gpu_rig_send(3, &answer, sizeof(answer));
    }
    return 0;
}
