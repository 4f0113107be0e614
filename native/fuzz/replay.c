/* SPDX-License-Identifier: MIT
 *
 * Runs a fuzz target over files and folders of files, in place of libFuzzer. */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned n_files;

static void replay_file(const char *path)
{
	FILE *f = fopen(path, "re");
	uint8_t *data = NULL;
	struct stat st;

	CHECK(f && fstat(fileno(f), &st) == 0);
	/* Of exactly its size, so that a sanitizer sees who reads past its end. */
	data = malloc(st.st_size ? (size_t)st.st_size : 1);
	CHECK(data && fread(data, 1, (size_t)st.st_size, f) == (size_t)st.st_size);
	fclose(f);
	/* The last one named is the one that was not survived. */
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
	free(data);
	n_files++;
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void replay(const char *path)
{
	struct dirent **entries;
	struct stat st;
	int n;

	CHECK(stat(path, &st) == 0);
	if (!S_ISDIR(st.st_mode)) {
		replay_file(path);
		return;
	}
	n = scandir(path, &entries, is_visible, alphasort);
	CHECK(n >= 0);
	for (int i = 0; i < n; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		replay(name);
		free(entries[i]);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		replay(argv[i]);
	printf("replayed %u inputs\n", n_files);
	return n_files ? 0 : 1;
}
