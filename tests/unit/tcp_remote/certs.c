/* SPDX-License-Identifier: Apache-2.0 */
#include "certs.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#define DAY_S (24l * 3600)

struct signer {
    X509 *cert;
    EVP_PKEY *key;
};

static void certs_check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "certs: %s failed\n", what);
        abort();
    }
}

static void certs_extend(X509 *cert, X509 *issuer, int id, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;

    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, id, value);
    certs_check(extension != NULL && X509_add_ext(cert, extension, -1) == 1, value);
    X509_EXTENSION_free(extension);
}

/* A certificate with a key of its own, by `by` or by itself. */
static struct signer certs_issue(const char *name, const struct signer *by, long until_s)
{
    static long serial = 1;
    struct signer made = {.cert = X509_new(), .key = EVP_EC_gen("P-256")};
    const struct signer *signer = by != NULL ? by : &made;
    X509_NAME *subject;

    certs_check(made.cert != NULL && made.key != NULL, "making a key");
    subject = X509_get_subject_name(made.cert);
    X509_set_version(made.cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.cert), -2 * DAY_S);
    X509_gmtime_adj(X509_getm_notAfter(made.cert), until_s);
    X509_set_pubkey(made.cert, made.key);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(made.cert, X509_get_subject_name(signer->cert));
    certs_extend(made.cert, signer->cert, NID_basic_constraints,
                 by == NULL ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (by != NULL) {
        certs_extend(made.cert, signer->cert, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    }
    certs_check(X509_sign(made.cert, signer->key, EVP_sha256()) > 0, "signing");
    return made;
}

static void certs_drop(struct signer *signer)
{
    X509_free(signer->cert);
    EVP_PKEY_free(signer->key);
}

static void certs_write(const struct certs *certs, const char *name, const struct signer *signer,
                        char *cert_out, char *key_out)
{
    FILE *file;

    snprintf(cert_out, CERTS_PATH, "%s/%s.pem", certs->folder, name);
    file = fopen(cert_out, "w");
    certs_check(file != NULL && PEM_write_X509(file, signer->cert) == 1, cert_out);
    fclose(file);
    if (key_out == NULL) {
        return;
    }
    snprintf(key_out, CERTS_PATH, "%s/%s.key", certs->folder, name);
    file = fopen(key_out, "w");
    certs_check(file != NULL && PEM_write_PrivateKey(file, signer->key, NULL, NULL, 0, NULL, NULL),
                key_out);
    fclose(file);
}

static void certs_lock(struct certs *certs, const struct signer *signer)
{
    static const unsigned char phrase[] = "secret";
    FILE *file;

    snprintf(certs->locked_key, CERTS_PATH, "%s/locked.key", certs->folder);
    file = fopen(certs->locked_key, "w");
    certs_check(file != NULL && PEM_write_PrivateKey(file, signer->key, EVP_aes_128_cbc(), phrase,
                                                     sizeof(phrase) - 1, NULL, NULL),
                certs->locked_key);
    fclose(file);
}

void certs_make(struct certs *certs)
{
    struct signer ca = certs_issue("ca", NULL, DAY_S);
    struct signer other = certs_issue("other ca", NULL, DAY_S);
    struct signer server = certs_issue("server", &ca, DAY_S);
    struct signer client = certs_issue("client", &ca, DAY_S);
    struct signer stranger = certs_issue("stranger", &other, DAY_S);
    struct signer late = certs_issue("late", &ca, -DAY_S);

    snprintf(certs->folder, sizeof(certs->folder), "/tmp/kvl-certs-XXXXXX");
    certs_check(mkdtemp(certs->folder) != NULL, "mkdtemp");
    certs_write(certs, "ca", &ca, certs->ca, NULL);
    certs_write(certs, "other", &other, certs->other_ca, NULL);
    certs_write(certs, "server", &server, certs->server_cert, certs->server_key);
    certs_write(certs, "client", &client, certs->client_cert, certs->client_key);
    certs_write(certs, "stranger", &stranger, certs->stranger_cert, certs->stranger_key);
    certs_write(certs, "late", &late, certs->late_cert, certs->late_key);
    certs_lock(certs, &server);
    certs_drop(&ca);
    certs_drop(&other);
    certs_drop(&server);
    certs_drop(&client);
    certs_drop(&stranger);
    certs_drop(&late);
}

void certs_remove(struct certs *certs)
{
    const char *const paths[] = {
        certs->ca,          certs->other_ca,   certs->server_cert,   certs->server_key,
        certs->client_cert, certs->client_key, certs->stranger_cert, certs->stranger_key,
        certs->late_cert,   certs->late_key,   certs->locked_key,
    };

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        (void)unlink(paths[i]);
    }
    (void)rmdir(certs->folder);
}
