/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file explain.h
 * `kvlane controller --explain`: asks a running controller why a lookup finds nothing.
 */
#ifndef KVL_EXPLAIN_H
#define KVL_EXPLAIN_H

#include <stdbool.h>

/** Is that what the command line asks for? */
bool explain_wanted(int argc, char **argv);

/** Parses the whole command line of its own. @return an exit code, 0 when explained. */
int explain_run(int argc, char **argv);

#endif /* KVL_EXPLAIN_H */
