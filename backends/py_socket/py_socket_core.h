/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_core.h
 * The parts of a channel's data plane and how they hang together; used by the files of the data
 * plane only.
 *
 *   channel   one of kvl_channel_ops: buffer, link, doors, operations, lanes
 *   lane      one peer incarnation: its connections, what is mapped of it, operations for it
 *   conn      a TCP or Unix stream that speaks frames
 *   op        an operation of the caller; split into
 *   part      a request on a connection that waits for its answer
 *   out       a frame on its way
 *
 * One lock per channel guards all of them except what belongs to who receives on a connection. It
 * is never held in a call that moves bytes of payload, into another layer, or waits. It is given
 * back by py_socket_unlock, which then sends what was queued and runs what has ended.
 */
#ifndef KVL_PY_SOCKET_CORE_H
#define KVL_PY_SOCKET_CORE_H

#include <pthread.h>
#include <sys/uio.h>

#include "py_socket_data.h"
#include "py_socket_frame.h"
#include "py_socket_link.h"
#include "py_socket_loop.h"
#include "py_socket_options.h"
#include "py_socket_shm.h"
#include "sock.h"

/** Requests that one side may have unanswered on a connection; more ends it. */
#define PY_SOCKET_WINDOW 32u
/** Bytes that are asked for or sent on a connection before an answer. */
#define PY_SOCKET_WINDOW_BYTES ((uint64_t)8 * 1024 * 1024)
/** Bytes and ranges of one request. */
#define PY_SOCKET_PART_BYTES ((uint64_t)1024 * 1024)
#define PY_SOCKET_PART_RANGES 512u
/** Bytes a connection moves before others get their turn. */
#define PY_SOCKET_TURN_BYTES ((uint64_t)2 * 1024 * 1024)
#define PY_SOCKET_IOVS 64u
/** Frames that may wait to be sent when a peer asks for one more. */
#define PY_SOCKET_OUTS_MAX (4u * PY_SOCKET_WINDOW)
#define PY_SOCKET_LANE_CONNS 40u
/** Tables of SENDs that wait for their RECV, per peer. */
#define PY_SOCKET_OFFERED_BYTES (4u * 1024 * 1024)
#define PY_SOCKET_OPS_MAX 4096u

struct py_socket_conn;
struct py_socket_lane;
struct py_socket_op;
struct py_socket_fetch;
struct py_socket_driver;

/* ---- frames on their way ---- */

struct py_socket_out {
    struct py_socket_out *next;
    struct py_socket_part *part; /* the request it carries and that still waits; NULL */
    void (*end)(void *ctx); /* when it has left or never will; any thread, no lock; NULL */
    void *ctx;
    bool begun;
    uint32_t head_at;
    uint32_t head_bytes; /* frame and table */
    uint32_t iov_at;
    uint32_t iov_count;
    uint64_t payload; /* bytes left */
    struct iovec *iov; /* behind the head */
    uint8_t head[];
};

/* ---- requests that wait for their answer ---- */

struct py_socket_part {
    uint64_t id;
    uint8_t type; /* PY_SOCKET_READ, .. */
    bool done;
    bool busy; /* the loop's thread writes to its memory: whoever ends the op waits */
    int32_t status;
    struct py_socket_conn *conn; /* NULL once answered */
    struct py_socket_op *op; /* NULL: given up, the answer is dropped */
    struct py_socket_part *next; /* of the op, in order */
    struct py_socket_part *prev;
    struct py_socket_out *out; /* its frame while none of it has left */
    uint64_t bytes;
    uint32_t objects; /* of the op, moved when this and all parts before are done */
    uint32_t iov_at;
    uint32_t iov_count;
    struct iovec *iov; /* READ, GET: where the payload goes; owned */
};

/* ---- operations ---- */

enum py_socket_op_state { PY_SOCKET_OP_FREE, PY_SOCKET_OP_RUNNING, PY_SOCKET_OP_ENDED };

enum {
    PY_SOCKET_OP_CONNECT = 16, /* beside KVL_TRANSFER_ */
    PY_SOCKET_OP_FETCH = 17,
};

struct py_socket_op {
    uint64_t id;
    uint64_t tag;
    uint32_t kind;
    enum py_socket_op_state state;
    struct kvl_channel *channel;
    struct py_socket_lane *lane; /* retained; NULL for a connect */
    uint64_t deadline_ms;
    int32_t status; /* while ending and after: why */
    uint32_t moved;
    bool ending;
    bool queued; /* in lane->queue */
    bool receiving; /* in lane->receives */
    uint64_t dead; /* RECVs given up right before it in there */
    bool held; /* somebody copies for it without the lock */
    uint32_t waiters;
    pthread_cond_t ended;
    struct py_socket_driver *driver; /* one of the waiters, who receives; NULL */

    uint32_t count; /* objects that can be moved */
    int32_t end_status; /* when they are: 0, or why the next one cannot */
    uint32_t at_object; /* next to ask for */
    uint64_t at_offset;
    struct kvl_span *spans; /* owned, also offsets; NULL when all was done at once */
    uint64_t *offsets; /* of the peer's buffer */
    struct py_socket_part *first;
    struct py_socket_part *last;
    struct py_socket_op *next; /* of the queue it is in */
    struct py_socket_op *prev;
    struct py_socket_op *done_next;
    struct py_socket_op *done_prev;

    struct py_socket_conn *from; /* RECV: where its SEND came from, retained */
    uint64_t from_id;
    struct kvl_channel_peer *peer; /* CONNECT: where the side reply goes; borrowed; or NULL */
    py_socket_connected_fn connected; /* CONNECT: told of its end instead of wait and poll; NULL */
    void *connected_ctx;
    uint64_t call; /* CONNECT: of the link; 0 = over */
    struct py_socket_fetch *fetch; /* FETCH: owned */
};

/* ---- connections ---- */

enum py_socket_conn_state {
    PY_SOCKET_CONN_DIALING, /* connect() is under way */
    PY_SOCKET_CONN_GREETED, /* HELLO has been sent, or is awaited */
    PY_SOCKET_CONN_OPEN,
    PY_SOCKET_CONN_CLOSED,
};

enum py_socket_phase { PY_SOCKET_HEAD, PY_SOCKET_TABLE, PY_SOCKET_PAYLOAD };

struct py_socket_conn {
    struct py_socket_source source;
    struct kvl_channel *channel;
    struct py_socket_loop *loop;
    _Atomic uint32_t refs;
    int fd;
    bool is_unix;
    bool dialed; /* by us */

    /* ---- under the channel's lock ---- */
    enum py_socket_conn_state state;
    bool dead; /* shut down: its loop will close it */
    bool opened; /* was OPEN once */
    int32_t status; /* why */
    struct py_socket_lane *lane; /* retained; NULL until its peer is known */
    struct py_socket_conn *next; /* of the channel */
    struct py_socket_conn *prev;
    struct py_socket_conn *flush_next;
    bool flush;
    bool sending; /* a thread is in sendmsg */
    bool receiving; /* its loop is in py_socket_conn_recv */
    bool unwatched; /* it hung up while a driver had it */
    struct py_socket_driver *driver; /* receives instead of the loop; NULL */
    uint32_t events; /* watched, by the loop or the driver */
    uint64_t hello_by_ms;
    struct py_socket_out *out_first;
    struct py_socket_out *out_last;
    _Atomic uint32_t outs; /* in that list */
    bool maps_store; /* the peer has got the memfd of our store */
    uint32_t parts; /* slots in use */
    uint64_t parts_bytes;
    uint64_t next_id;
    struct py_socket_part *slots[PY_SOCKET_WINDOW];

    /* ---- who receives only: its loop's thread, or a driver ---- */
    enum py_socket_phase phase;
    uint8_t head[PY_SOCKET_FRAME_BYTES];
    uint32_t head_have;
    struct py_socket_frame frame;
    uint8_t *table;
    uint32_t table_room;
    uint32_t table_have;
    uint64_t payload_left;
    bool carried_sends;
    struct py_socket_part *part; /* its payload is coming in; NULL */
    struct iovec *sink; /* of a WRITE: where it goes; owned */
    uint32_t sink_at;
    uint32_t sink_count;
    int fds[PY_SOCKET_HELLO_FDS];
    uint32_t fd_count;
};

/* ---- peers ---- */

enum py_socket_lane_state {
    PY_SOCKET_LANE_IDLE, /* nobody has connected */
    PY_SOCKET_LANE_DIALING,
    PY_SOCKET_LANE_OPEN,
    PY_SOCKET_LANE_GONE,
};

enum py_socket_path {
    PY_SOCKET_PATH_NONE,
    PY_SOCKET_PATH_SHM,
    PY_SOCKET_PATH_UNIX,
    PY_SOCKET_PATH_TCP,
};

/** A SEND of the peer that waits for its RECV. */
struct py_socket_offered {
    struct py_socket_offered *next;
    struct py_socket_conn *conn; /* retained */
    uint64_t id;
    int32_t status; /* < 0: the peer gave it up */
    uint32_t count;
    struct py_socket_range ranges[];
};

struct py_socket_lane {
    struct kvl_channel *channel;
    struct py_socket_peer *peer; /* retained; its `data` is this lane */
    uint32_t refs;
    struct py_socket_lane *next;
    enum py_socket_lane_state state;
    int32_t status; /* GONE: why */
    bool with_tcp; /* the Unix socket is not to be had */
    bool forget; /* the link is to forget its peer */
    bool complained; /* that it is a Python peer */
    struct kvl_sock_addr tcp; /* length 0: none, or not resolved */
    enum py_socket_path path;
    struct py_socket_conn *conns[PY_SOCKET_LANE_CONNS];
    uint32_t conn_count;
    struct py_socket_conn *send_conn; /* SENDs keep their order on it; one of conns */
    struct py_socket_greeting hello; /* the peer's last */
    struct py_socket_map *map; /* of its buffer; NULL */
    struct py_socket_map *control_map;
    const struct py_socket_control *control; /* in control_map */
    struct py_socket_map *store;
    struct py_socket_op *queue; /* have something to ask for */
    struct py_socket_op *queue_last;
    struct py_socket_op *receives; /* RECVs without their SEND */
    struct py_socket_op *receives_last;
    uint64_t dead; /* RECVs given up behind the last */
    struct py_socket_offered *offered;
    struct py_socket_offered *offered_last;
    uint64_t offered_bytes;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t errors;
};

/* ---- the channel ---- */

struct py_socket_door {
    struct py_socket_source source;
    struct kvl_channel *channel;
    struct py_socket_loop *loop; /* NULL = not listening */
    int fd;
    bool is_unix;
    bool paused; /* no descriptor was left */
};

struct kvl_channel {
    struct py_socket_data *data;
    const struct kvl_host *host;
    const struct py_socket_options *options;
    struct kvl_channel *next; /* of the instance */
    uint32_t role;
    uint32_t flags;
    uint8_t *buffer;
    uint64_t buffer_bytes;
    uint64_t align_bytes;
    uint64_t incarnation;
    struct py_socket_memfd own; /* the buffer when we mapped it */
    int buffer_fd; /* for peers; -1 */
    uint64_t buffer_offset; /* in it */
    struct py_socket_memfd control_memory;
    struct py_socket_control *control; /* in it; NULL = no memfds here */
    int control_fd; /* read-only, for peers */
    struct py_socket_leases *leases; /* NULL = serves no chunks */
    struct py_socket_offer offer;
    struct py_socket_link *link;
    struct py_socket_door doors[2]; /* Unix, TCP */
    struct py_socket_timer timer;
    int event_fd; /* -1 until asked for; an epoll of the next and of the link's */
    int done_fd;

    pthread_mutex_t lock;
    bool closing;
    struct py_socket_lane *lanes;
    struct py_socket_lane *lost; /* retained; by next */
    struct py_socket_conn *conns;
    uint32_t strangers; /* connections before their HELLO */
    uint64_t bytes_in; /* of lanes that are gone, as the next two */
    uint64_t bytes_out;
    uint64_t errors;
    struct py_socket_conn *flush;
    struct py_socket_op *called; /* fetches that have ended, linked by done_next */
    struct py_socket_op **ops; /* slots; filled as needed */
    uint32_t op_count; /* slots filled */
    uint32_t *op_free; /* stack of slots */
    uint32_t op_free_count;
    struct py_socket_op *done; /* ended and not waited for, oldest first */
    struct py_socket_op *done_last;
    struct py_socket_driver *drivers; /* at rest */
};

/** Gives the lock back, then sends what was queued and runs what has ended. */
void py_socket_unlock(struct kvl_channel *channel);

/* ---- py_socket_op.c; all with the lock held unless said otherwise ---- */

int py_socket_ops_init(struct kvl_channel *channel);
/** No lock; every op has ended. */
void py_socket_ops_fini(struct kvl_channel *channel);
/** @param lane  gets retained; may be NULL. @return 0; -EAGAIN, -ENOMEM. */
int py_socket_op_create(struct kvl_channel *channel, uint32_t kind, struct py_socket_lane *lane,
                        struct py_socket_op **op_out);
/** @return NULL for one that is unknown or forgotten. */
struct py_socket_op *py_socket_op_find(struct kvl_channel *channel, uint64_t id);
/** Takes one back that has not begun: its caller gets an error and no id. */
void py_socket_op_undo(struct py_socket_op *op);
/** Forgets an ended op. */
void py_socket_op_free(struct py_socket_op *op);
/**
 * Makes it end with `status` and what has been moved. It has ended when this returns, or will as
 * soon as the threads that write to its memory have noticed.
 */
void py_socket_op_stop(struct py_socket_op *op, int32_t status);
/** It has ended: tells who waits. */
void py_socket_op_end(struct py_socket_op *op, int32_t status);
/** Takes finished parts off its front; ends it when nothing is left. */
void py_socket_op_advance(struct py_socket_op *op);
/** A part is answered and frees itself. */
void py_socket_part_end(struct py_socket_part *part, int32_t status);
/** The thread that was busy with it is not any more. */
void py_socket_part_rest(struct py_socket_part *part);
void py_socket_part_free(struct py_socket_part *part);

/* ---- py_socket_conn.c ---- */

/** Takes the descriptor, also on failure. @return 0 and a connection in the channel; -ENOMEM. */
int py_socket_conn_create(struct kvl_channel *channel, int take_fd, bool is_unix, bool dialed,
                          struct py_socket_conn **conn_out);
/** Ends one that no loop watches. With the lock. */
void py_socket_conn_drop(struct py_socket_conn *conn);
void py_socket_conn_retain(struct py_socket_conn *conn);
/** Any thread, with or without the lock. Takes NULL. */
void py_socket_conn_release(struct py_socket_conn *conn);
/** Shuts it down; its loop closes it. With the lock. */
void py_socket_conn_kill(struct py_socket_conn *conn, int32_t status);
/** The loop's thread, no lock. */
void py_socket_conn_close(struct py_socket_conn *conn, int32_t status);
/** Queues a frame. With the lock; takes `out`. */
void py_socket_conn_put(struct py_socket_conn *conn, struct py_socket_out *take_out);
void py_socket_conn_watch(struct py_socket_conn *conn, uint32_t events);

/** @return NULL: no memory. */
struct py_socket_out *py_socket_out_create(const struct py_socket_frame *frame, uint32_t iovs);
/** Where the table of a new frame goes. */
uint8_t *py_socket_out_table(struct py_socket_out *out);
/** Adds to the payload; next to the bytes before, or a new entry. */
void py_socket_iov_add(struct iovec *iov, uint32_t *count_io, void *base, uint64_t bytes);
/** Steps over bytes. */
void py_socket_iov_advance(struct iovec *iov, uint32_t *at_io, size_t bytes);
void py_socket_out_destroy(struct py_socket_out *out);

/** Answers a request with a plain status. With the lock. */
void py_socket_conn_answer(struct py_socket_conn *conn, uint8_t type, uint64_t id, int32_t status,
                           uint32_t count);

/**
 * Sends what is queued, as far as that goes within a turn. With the lock; gives it back meanwhile.
 */
void py_socket_conn_flush(struct py_socket_conn *conn);

/* ---- py_socket_drive.c; with the lock ---- */

/**
 * Drives the connections of an op's peer, and in async mode the handshakes, until it has ended, or
 * the deadline. Returns early where somebody else does: wait for `ended` then. Gives the lock back
 * meanwhile, so the op may be another one afterwards.
 */
void py_socket_drive(struct py_socket_op *op, uint64_t deadline_ms);
void py_socket_drive_wake(struct py_socket_driver *driver);
void py_socket_drivers_fini(struct kvl_channel *channel);

/* ---- py_socket_recv.c: who receives, no lock ---- */

/** Reads what is there, within a turn. @return 0; -errno: close it. */
int py_socket_conn_recv(struct py_socket_conn *conn);

/* ---- py_socket_door.c ---- */

/** Opens the listening sockets and fills their part of the offer. @return as open. */
int py_socket_doors_open(struct kvl_channel *channel, const char *peer_init_url,
                         struct kvl_err *err);
/** Loop's thread: closes those of `loop`. */
void py_socket_doors_close(struct kvl_channel *channel, const struct py_socket_loop *loop);
/** Finds where the peer's TCP endpoint is. May block in the resolver. No lock. */
void py_socket_lane_resolve(const struct py_socket_peer *peer, struct kvl_sock_addr *addr_out);
/** Begins to connect to the peer. @return 0; -ENOTCONN it offers nothing we reach; -EMFILE, .. */
int py_socket_lane_dial(struct py_socket_lane *lane);
/** More connections to a peer whose Unix socket works. With the lock. */
int py_socket_lane_dial_unix(struct py_socket_lane *lane, uint32_t count);
/** The process at the other end of a Unix stream is one of our user. */
bool py_socket_same_user(int fd);
/** Late greetings, doors without descriptors. @return when to look again. With the lock. */
uint64_t py_socket_doors_tick(struct kvl_channel *channel, uint64_t now_ms);
/** A connection of it is gone before it was open. With the lock. */
void py_socket_lane_dial_failed(struct py_socket_lane *lane, struct py_socket_conn *conn,
                                int32_t status);

/* ---- py_socket_greet.c ---- */

/** Last words on a connection that is about to be closed: GOODBYE or ERROR. */
void py_socket_farewell(struct py_socket_conn *conn, int32_t status);
/** HELLO or WELCOME has come. Loop's thread, no lock. @return 0; -errno: close it. */
int py_socket_greeted(struct py_socket_conn *conn, const struct py_socket_greeting *hello);
/** connect() is through. Loop's thread, no lock. @return 0; -errno. */
int py_socket_dialed(struct py_socket_conn *conn);

/* ---- py_socket_lane.c; with the lock ---- */

/** Lane of a peer, made when it has none. @return NULL: no memory, or the peer is gone. */
struct py_socket_lane *py_socket_lane_of(struct kvl_channel *channel, struct py_socket_peer *peer);
void py_socket_lane_release(struct py_socket_lane *lane);
/** The first connection is open: connects have ended. */
void py_socket_lane_opened(struct py_socket_lane *lane);
/** Ends all that is under way. */
void py_socket_lane_lose(struct py_socket_lane *lane, int32_t status);
/** A connection is gone. */
void py_socket_lane_remove(struct py_socket_lane *lane, struct py_socket_conn *conn,
                           int32_t status);
/** Asks for as much as the connections take. */
void py_socket_lane_pump(struct py_socket_lane *lane);
/** Puts an op that has something to ask for at the end of the queue. */
void py_socket_lane_queue(struct py_socket_lane *lane, struct py_socket_op *op);
void py_socket_lane_unqueue(struct py_socket_lane *lane, struct py_socket_op *op);
/**
 * Copies all objects of an op by the map and ends it. Called with the lock, which it gives back
 * meanwhile.
 */
void py_socket_lane_copy(struct py_socket_lane *lane, struct py_socket_op *op,
                         const struct kvl_span *spans, const uint64_t *offsets);
/** A request on a connection: a slot, its id, its place in the op. @return -ENOMEM. */
int py_socket_part_create(struct py_socket_conn *conn, struct py_socket_op *op, uint8_t type,
                          struct py_socket_part **part_out);
const char *py_socket_path_name(enum py_socket_path path);

/* ---- py_socket_pair.c: SEND and RECV; with the lock ---- */

/** A SEND has come. @return 0; -errno: close the connection. */
int py_socket_pair_offer(struct py_socket_conn *conn, const struct py_socket_frame *frame,
                         const uint8_t *table);
/** The peer gives a SEND up. */
void py_socket_pair_cancel(struct py_socket_conn *conn, uint64_t id);
/** Adds a RECV, whose spans are set. Called with the lock, which it may give back meanwhile. */
void py_socket_pair_receive(struct py_socket_lane *lane, struct py_socket_op *op);
/** Brings RECVs and SENDs together. As py_socket_pair_receive. */
void py_socket_pair_match(struct py_socket_lane *lane);
/** A RECV has ended: answers its SEND. */
void py_socket_pair_ended(struct py_socket_op *op);
/** Drops what came over a connection that is gone, and the RECVs for it; over all for NULL. */
void py_socket_pair_drop(struct py_socket_lane *lane, const struct py_socket_conn *conn);

/* ---- py_socket_serve.c: who receives, no lock ---- */

/** A request with its table is there; for a WRITE sets conn->sink. @return 0; -errno: close it. */
int py_socket_serve(struct py_socket_conn *conn);
/** The payload of a WRITE is in. */
void py_socket_serve_written(struct py_socket_conn *conn);
/**
 * Answers a LOOKUP or GET that had to wait; any thread, no lock.
 * @param there  per key: 1 = it was found beside the own store
 */
void py_socket_serve_later(struct py_socket_conn *conn, const struct py_socket_frame *asked,
                           const uint8_t *table, const uint8_t *there);

/* ---- py_socket_bring.c ---- */

/**
 * Who receives, no lock, with a LOOKUP or GET. Has the backends of this process that keep chunks
 * asked for those that the store has not.
 * @return 1: it is answered when they have answered; 0: answer it now.
 */
int py_socket_bring(struct py_socket_conn *conn);
/** Its connections are closed: nothing touches the channel when this returns. No lock. */
void py_socket_brings_drop(struct kvl_channel *channel);
/** True when a range lies in the own buffer. */
bool py_socket_in_buffer(const struct kvl_channel *channel, uint64_t offset, uint64_t length);

/* ---- py_socket_fetch.c: chunks of a peer; who receives, no lock ---- */

/** The answer to a LOOKUP or GET is there: says where its payload goes. @return 0; -EPROTO. */
int py_socket_fetch_answer(struct py_socket_conn *conn, struct py_socket_part *part);
/** Gives back the leases in the answer to a GET. */
void py_socket_fetch_release(struct py_socket_conn *conn);
/** The payload of a GET is in. */
void py_socket_fetch_filled(struct py_socket_part *part);
/** Runs the callback of an ended fetch and forgets it. */
void py_socket_fetch_ended(struct py_socket_op *op);
/** Calls whoever is to be told of the end of an op of `called`, and frees it. No lock. */
void py_socket_op_call(struct py_socket_op *op);

#endif /* KVL_PY_SOCKET_CORE_H */
