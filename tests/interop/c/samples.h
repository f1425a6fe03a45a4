/* samples.h - what the programs that make samples for other people's parsers share. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stdio.h>
#include <stdlib.h>

#include "pki/pki.h"

/* A sample that cannot be made ends the program: `e` of the caller says why. */
#define CHECK(call)                                                                                \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            (void)fprintf(stderr, "%s: %s: %s\n", __FILE__, #call, e.msg);                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const enum key_kind kinds[] = { KEY_P256,    KEY_P384,    KEY_P521,   KEY_RSA2048,
                                       KEY_RSA3072, KEY_RSA4096, KEY_ED25519 };

#endif
