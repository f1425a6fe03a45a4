/* ledger_tool.h - what the ledger commands share: the store of a state folder, rows as JSON and
 * CSV. Layer: cmd. They read only, whether the daemon runs or not. */
#ifndef CMD_LEDGER_TOOL_H
#define CMD_LEDGER_TOOL_H

#include "cmd/tool.h"
#include "ledger/reader.h"

/* STATE/meshroot.db for reading; *ret is closed with store_close. Errors: NOTFOUND (says what to
 * do), SYS, PARSE. */
MUST_USE int ledger_store(const char *given_dir, struct store **ret, struct err *e);
DEFINE_CLEANUP(struct store, store_close)

/* A serial number as any tool shows it: hex of either case, zeros in front or not, colons or spaces
 * between, "0x" or "serial=" before ("4A:0f", "0x4a0f", "serial=4A0F"). Errors: INVAL. */
MUST_USE int serial_parse(const char *text, uint8_t ret[SERIAL_MAX_BYTES], size_t *ret_n,
                          struct err *e);
/* "2026-11-23T21:12:40Z", "2026-11-23", or how long ago: "2h". Errors: INVAL. */
MUST_USE int since_parse(const char *text, int64_t *ret, struct err *e);

/* One row; with `state`, whether it is in use now (which changes; the rest never does). Texts that
 * are no UTF-8 are in NAME_hex. Owner of the JSON: caller. Errors: NOMEM. */
MUST_USE int row_json(const struct ledger_found *f, bool state, json_t **ret, struct err *e);
/* The same columns, RFC 4180. Errors: SYS (cannot write). */
MUST_USE int csv_head(bool state, struct err *e);
MUST_USE int csv_row(const struct ledger_found *f, bool state, struct err *e);
/* A text of the row for a terminal: at most `max` bytes, nothing that would steer it. */
void print_text(const char *text, int width);

#endif
