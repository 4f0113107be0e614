/* SPDX-License-Identifier: MIT
 *
 * Transport for peers on the same host. The writer copies into memory that it has mapped, or with
 * process_vm_writev, or else through shared memory, and then puts the immediate into a ring. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "util/error.h"

static const struct pg_caps shm_caps = {
	.max_write = SHM_MAX_WRITE,
	.max_msg = PG_MSG_MAX,
	.max_outstanding = ENTRIES / 2,
	.imm_bits = 32,
	.split_min = 256 << 10,
	.ordered = true,
	.reports_source = true,
	.placement_once = true,
	.wait_fd = true,
	.sync_post = true,
	.maps_peer = true,
	.exact_failure = true,
};

static int shm_query(struct pg_caps *caps, struct pg_error *err)
{
	int fd = memfd_create("pgctl-query", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_set(err, -ENODEV, "shm needs memfd_create: %m");
	close(fd);
	*caps = shm_caps;
	return 0;
}

static int alloc_tables(struct shm_domain *lane, uint32_t max_peers)
{
	uint64_t slots = (uint64_t)max_peers * PG_MAX_DOMAINS;

	lane->n_slots = (unsigned)(slots < INBOX_SLOTS ? slots : INBOX_SLOTS);
	lane->cold = calloc(INBOX_WORDS, sizeof(*lane->cold));
	lane->hot = calloc(lane->n_slots, sizeof(*lane->hot));
	lane->conns = calloc(lane->n_slots, sizeof(*lane->conns));
	lane->staging = malloc(STAGED_MESSAGES * PG_MSG_MAX);
	return lane->cold && lane->hot && lane->conns && lane->staging ? 0 : -ENOMEM;
}

static void free_tables(struct shm_domain *lane)
{
	free(lane->staging);
	free(lane->conns);
	free(lane->hot);
	free(lane->cold);
	free(lane->regions.list);
}

static bool cma_wanted(void)
{
	const char *value = getenv("PGCTL_SHM_CMA");

	return !value || strcmp(value, "0");
}

static int check_options(const struct domain_options *options, const char *name,
			 struct pg_error *err)
{
	if (options->index >= PG_MAX_DOMAINS)
		return error_set(err, -EINVAL, "a group has no NIC %u", options->index);
	if (options->device[0] && strcmp(options->device, name))
		return error_set(err, -EINVAL, "NIC %u of shm is \"%s\", not \"%s\"",
				 options->index, name, options->device);
	if (options->options && options->options[0])
		return error_set(err, -EINVAL, "shm has no options, and was given \"%s\"",
				 options->options);
	if (!options->max_peers)
		return error_set(err, -EINVAL, "max_peers is 0");
	return 0;
}

static int shm_open_lane(const struct domain_options *options, struct domain **domain,
			 struct pg_error *err)
{
	struct shm_domain *lane = calloc(1, sizeof(*lane));
	void *inbox;
	int rc;

	if (!lane)
		return error_set(err, -ENOMEM, "no memory for a shm lane");
	lane->domain.transport = &transport_shm;
	lane->domain.caps = shm_caps;
	lane->domain.caps.link_mbit_s = options->link_mbit_s;
	lane->domain.index = options->index;
	lane->cma = cma_wanted();
	snprintf(lane->domain.name, sizeof(lane->domain.name), "shm%u", options->index);

	rc = check_options(options, lane->domain.name, err);
	if (rc)
		goto free_lane;
	rc = alloc_tables(lane, options->max_peers);
	if (rc) {
		error_set(err, rc, "no memory for %u connections", lane->n_slots);
		goto free_tables;
	}
	rc = segment_make("pgctl-inbox", sizeof(struct inbox), &lane->inbox_fd, &inbox, err);
	if (rc)
		goto free_tables;
	lane->inbox = inbox;
	lane->domain.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (lane->domain.fd < 0) {
		rc = error_set(err, -errno, "eventfd: %m");
		goto free_inbox;
	}
	if (options->async && options->index > 0) {
		rc = mover_start(lane, options->cpu, err);
		if (rc)
			goto close_bell;
	}
	if (lane->cma)
		cma_allow();
	*domain = &lane->domain;
	return 0;

close_bell:
	close(lane->domain.fd);
free_inbox:
	munmap(lane->inbox, sizeof(*lane->inbox));
	close(lane->inbox_fd);
free_tables:
	free_tables(lane);
free_lane:
	free(lane);
	return rc;
}

static void shm_close(struct domain *domain)
{
	struct shm_domain *lane = shm_domain(domain);

	if (lane->mover)
		mover_stop(lane);
	close(domain->fd);
	munmap(lane->inbox, sizeof(*lane->inbox));
	close(lane->inbox_fd);
	free_tables(lane);
	free(lane);
}

/* Who is on this host is found out by connecting, and all else comes with the offer. */
static int shm_address(struct domain *domain, uint8_t *buf, size_t *len)
{
	(void)domain;
	(void)buf;
	*len = 0;
	return 0;
}

const struct transport transport_shm = {
	.name = "shm",
	.query = shm_query,
	.open = shm_open_lane,
	.close = shm_close,
	.address = shm_address,
	.mr_reg = shm_mr_reg,
	.mr_dereg = shm_mr_dereg,
	.mr_export = shm_mr_export,
	.mr_import = shm_mr_import,
	.mr_unimport = shm_mr_unimport,
	.conn_open = shm_conn_open,
	.conn_attach = shm_conn_attach,
	.conn_close = shm_conn_close,
	.post = shm_post,
	.flush = shm_flush,
	.visible = shm_visible,
	.describe = shm_describe,
	.poll = shm_poll,
	.arm = shm_arm,
};
