/* SPDX-License-Identifier: MIT
 *
 * Options of an endpoint of the stand-in for EFA. Those that change something have to be set before it is
 * enabled, as they have to be of efa. */
#include <string.h>

#include "inside.h"

static int give(void *to, size_t *len, const void *value, size_t size)
{
	if (*len < size)
		return -FI_ETOOSMALL;
	memcpy(to, value, size);
	*len = size;
	return 0;
}

int fake_getopt(fid_t fid, int level, int name, void *value, size_t *len)
{
	const struct fake_ep *ep = CONTAINER(fid, struct fake_ep, fid.fid);
	const size_t any = SIZE_MAX, inject = FAKE_INJECT;
	const bool yes = true, emulated = fake_settings()->emulated, unsolicited = !ep->solicited;

	if (level != FI_OPT_ENDPOINT)
		return -FI_ENOPROTOOPT;
	switch (name) {
	case OPT_EMULATED_WRITE:
		return give(value, len, &emulated, sizeof(emulated));
	case OPT_EMULATED_READ:
	case OPT_EMULATED_ATOMICS:
		return give(value, len, &yes, sizeof(yes));
	case OPT_USE_UNSOLICITED_WRITE_RECV:
		return give(value, len, &unsolicited, sizeof(unsolicited));
	case OPT_RNR_RETRY:
		return give(value, len, &ep->rnr_retry, sizeof(ep->rnr_retry));
	case OPT_MAX_MSG_SIZE:
	case OPT_MAX_RMA_SIZE:
		return give(value, len, &any, sizeof(any));
	case OPT_INJECT_MSG_SIZE:
	case OPT_INJECT_RMA_SIZE:
		return give(value, len, &inject, sizeof(inject));
	default:
		return -FI_ENOPROTOOPT;
	}
}

int fake_setopt(fid_t fid, int level, int name, const void *value, size_t len)
{
	struct fake_ep *ep = CONTAINER(fid, struct fake_ep, fid.fid);
	bool on = false;

	if (level != FI_OPT_ENDPOINT)
		return -FI_ENOPROTOOPT;
	if (ep->enabled)
		return -FI_EINVAL;
	if (name == OPT_RNR_RETRY) {
		if (len != sizeof(ep->rnr_retry))
			return -FI_EINVAL;
		memcpy(&ep->rnr_retry, value, len);
		return 0;
	}
	if (len != sizeof(on))
		return -FI_EINVAL;
	memcpy(&on, value, len);
	switch (name) {
	case OPT_USE_UNSOLICITED_WRITE_RECV:
		ep->solicited = !on;
		return 0;
	case OPT_USE_DEVICE_RDMA:
		return on && fake_settings()->emulated ? -FI_EOPNOTSUPP : 0;
	case OPT_SHARED_MEMORY_PERMITTED:
	case OPT_HOMOGENEOUS_PEERS:
		return 0;
	case OPT_SENDRECV_IN_ORDER:
	case OPT_WRITE_IN_ORDER:
		return on ? -FI_EOPNOTSUPP : 0;
	default:
		return -FI_ENOPROTOOPT;
	}
}
