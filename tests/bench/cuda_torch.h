/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_torch.h
 * torch's own CUDA IPC beside ours: cuda_torch.py in two processes of Python, where torch is there
 * and sees a GPU.
 */
#ifndef KVL_TESTS_CUDA_TORCH_H
#define KVL_TESTS_CUDA_TORCH_H

#include <stdint.h>
#include <sys/types.h>

struct cuda_torch {
    pid_t pid;
    int fd; /* its stdin and stdout */
    char text[200]; /* what it is, or why it is not there */
};

/**
 * Starts it with the Python that KVLANE_TORCH_PYTHON names, else the one of LMCache's environment,
 * else python3. @return 0; -ENOENT and the reason in text.
 */
int cuda_torch_start(struct cuda_torch *torch, uint64_t chunk_bytes, uint32_t chunks);

/** Brings over `n` chunks. @return 0; -EIO. */
int cuda_torch_move(struct cuda_torch *torch, uint64_t n);

/** Looks at what was brought over, all chunks at least once. @return 0; -EBADMSG; -EIO. */
int cuda_torch_check(struct cuda_torch *torch);

void cuda_torch_stop(struct cuda_torch *torch);

#endif /* KVL_TESTS_CUDA_TORCH_H */
