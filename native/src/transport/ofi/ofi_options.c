/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/ofi/ofi.h"
#include "util/error.h"

#define NAMES "provider, library, sysfs, emulated"

static int copy(const char *piece, const char *value, char *to, size_t size, struct pg_error *err)
{
	if (!value[0] || strlen(value) >= size)
		return error_set(err, -EINVAL,
				 "option \"%s\" of ofi: 1 to %zu characters after \"=\"", piece,
				 size - 1);
	memcpy(to, value, strlen(value) + 1);
	return 0;
}

/* One piece, "provider=tcp". */
static int parse_piece(char *piece, struct ofi_options *options, struct pg_error *err)
{
	const char *value = strchr(piece, '=');
	size_t len = value ? (size_t)(value++ - piece) : 0;

	if (len == 8 && !strncmp(piece, "provider", len))
		return copy(piece, value, options->provider, sizeof(options->provider), err);
	if (len == 7 && !strncmp(piece, "library", len))
		return copy(piece, value, options->library, sizeof(options->library), err);
	if (len == 5 && !strncmp(piece, "sysfs", len))
		return copy(piece, value, options->sysfs, sizeof(options->sysfs), err);
	if (len == 8 && !strncmp(piece, "emulated", len)) {
		options->emulated = value[0] == '1';
		return strcmp(value, "0") && strcmp(value, "1")
			       ? error_set(err, -EINVAL,
					   "option \"%s\" of ofi: emulated= takes 0 or 1", piece)
			       : 0;
	}
	return error_set(err, -EINVAL,
			 "ofi has no option \"%s\"; it has " NAMES ", each with \"=\"", piece);
}

int ofi_options_parse(const char *text, struct ofi_options *options, struct pg_error *err)
{
	const char *environment = getenv("PGCTL_OFI");
	char pieces[1024], *save = NULL;
	int rc = 0;

	*options = (struct ofi_options){ .sysfs = "/sys/class/infiniband" };
	if (!text || !text[0])
		text = environment ? environment : "";
	if (strlen(text) >= sizeof(pieces))
		return error_set(err, -EINVAL, "options of ofi: longer than %zu characters",
				 sizeof(pieces) - 1);
	memcpy(pieces, text, strlen(text) + 1);
	for (char *piece = strtok_r(pieces, ",", &save); piece && !rc;
	     piece = strtok_r(NULL, ",", &save))
		rc = parse_piece(piece, options, err);
	return rc;
}
