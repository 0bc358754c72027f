/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file certs.h
 * Certificates for a test, made by it: files in a folder of its own that goes with it.
 */
#ifndef KVL_CERTS_H
#define KVL_CERTS_H

#define CERTS_PATH 96

struct certs {
    char folder[CERTS_PATH / 2];
    char ca[CERTS_PATH]; /* signed server and client */
    char other_ca[CERTS_PATH]; /* signed stranger */
    char server_cert[CERTS_PATH]; /* for localhost and 127.0.0.1 */
    char server_key[CERTS_PATH];
    char client_cert[CERTS_PATH];
    char client_key[CERTS_PATH];
    char stranger_cert[CERTS_PATH]; /* as the server, of the other one */
    char stranger_key[CERTS_PATH];
    char late_cert[CERTS_PATH]; /* as the client, over since yesterday */
    char late_key[CERTS_PATH];
    char locked_key[CERTS_PATH]; /* the server's, with a passphrase */
};

/** Ends the program when it cannot. */
void certs_make(struct certs *certs);
void certs_remove(struct certs *certs);

#endif /* KVL_CERTS_H */
