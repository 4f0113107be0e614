/* SPDX-License-Identifier: MIT
 *
 * What the stand-in for EFA offers, and to whom: fi_getinfo and what goes with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inside.h"

#define CAPS                                                                            \
	(FI_MSG | FI_RMA | FI_SEND | FI_RECV | FI_WRITE | FI_REMOTE_WRITE | FI_SOURCE | \
	 FI_LOCAL_COMM | FI_REMOTE_COMM)
#define TX_CAPS (FI_MSG | FI_RMA | FI_SEND | FI_WRITE)
#define RX_CAPS (FI_MSG | FI_RMA | FI_RECV | FI_REMOTE_WRITE | FI_SOURCE)
#define OP_FLAGS (FI_INJECT | FI_COMPLETION | FI_TRANSMIT_COMPLETE | FI_DELIVERY_COMPLETE)
/* The device has all of these. */
#define MR_MODE (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY)

#define LINK_BITS_PER_S 100000000000ULL
#define AMAZON_PCI_BUS 0x10 /* made up, and one more for each NIC */

uint32_t fi_version(void)
{
	return FAKE_VERSION;
}

const char *fi_strerror(int errnum)
{
	switch (errnum) {
	case FI_EAVAIL:
		return "an error can be read";
	case FI_ENOAV:
		return "no address vector";
	case FI_ENOCQ:
		return "no completion queue";
	case FI_ENORX:
		return "the receiver is not ready";
	case FI_EOPBADSTATE:
		return "not in this state";
	case FI_EOVERRUN:
		return "the queue has been overrun";
	case FI_ETOOSMALL:
		return "the buffer is too small";
	case FI_ETRUNC:
		return "the message is longer than the buffer";
	default:
		return errnum < FI_ERRNO_OFFSET ? strerror(errnum) : "an error of libfabric";
	}
}

/* ---- Making and copying --------------------------------------------------------------------- */

static int nic_close(struct fid *fid)
{
	struct fid_nic *nic = CONTAINER(fid, struct fid_nic, fid);

	if (nic->device_attr)
		free(nic->device_attr->name);
	if (nic->link_attr)
		free(nic->link_attr->network_type);
	free(nic->device_attr);
	free(nic->bus_attr);
	free(nic->link_attr);
	free(nic);
	return 0;
}

static struct fi_ops nic_ops = {
	.size = sizeof(nic_ops),
	.close = nic_close,
	.bind = fake_no_bind,
	.control = fake_no_control,
	.ops_open = fake_no_ops_open,
};

static struct fid_nic *make_nic(const char *name, uint8_t bus, bool up)
{
	struct fid_nic *nic = calloc(1, sizeof(*nic));

	if (!nic)
		return NULL;
	nic->fid.fclass = FI_CLASS_NIC;
	nic->fid.ops = &nic_ops;
	nic->device_attr = calloc(1, sizeof(*nic->device_attr));
	nic->bus_attr = calloc(1, sizeof(*nic->bus_attr));
	nic->link_attr = calloc(1, sizeof(*nic->link_attr));
	if (nic->device_attr)
		nic->device_attr->name = strdup(name);
	if (nic->link_attr)
		nic->link_attr->network_type = strdup("Ethernet");
	if (!nic->device_attr || !nic->bus_attr || !nic->link_attr || !nic->device_attr->name ||
	    !nic->link_attr->network_type) {
		nic_close(&nic->fid);
		return NULL;
	}
	nic->bus_attr->bus_type = FI_BUS_PCI;
	nic->bus_attr->attr.pci.bus_id = bus;
	nic->link_attr->mtu = FAKE_MTU;
	nic->link_attr->speed = LINK_BITS_PER_S;
	nic->link_attr->state = up ? FI_LINK_UP : FI_LINK_DOWN;
	return nic;
}

static struct fi_info *make_info(void)
{
	struct fi_info *info = calloc(1, sizeof(*info));

	if (!info)
		return NULL;
	info->tx_attr = calloc(1, sizeof(*info->tx_attr));
	info->rx_attr = calloc(1, sizeof(*info->rx_attr));
	info->ep_attr = calloc(1, sizeof(*info->ep_attr));
	info->domain_attr = calloc(1, sizeof(*info->domain_attr));
	info->fabric_attr = calloc(1, sizeof(*info->fabric_attr));
	if (info->tx_attr && info->rx_attr && info->ep_attr && info->domain_attr &&
	    info->fabric_attr)
		return info;
	fi_freeinfo(info);
	return NULL;
}

void fi_freeinfo(struct fi_info *info)
{
	while (info) {
		struct fi_info *next = info->next;

		if (info->domain_attr)
			free(info->domain_attr->name);
		if (info->fabric_attr) {
			free(info->fabric_attr->name);
			free(info->fabric_attr->prov_name);
		}
		if (info->nic)
			fi_close(&info->nic->fid);
		free(info->src_addr);
		free(info->dest_addr);
		free(info->tx_attr);
		free(info->rx_attr);
		free(info->ep_attr);
		free(info->domain_attr);
		free(info->fabric_attr);
		free(info);
		info = next;
	}
}

static bool copy_text(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return *to || !from;
}

static bool copy_bytes(void **to, const void *from, size_t len)
{
	*to = from && len ? malloc(len) : NULL;
	if (*to)
		memcpy(*to, from, len);
	return *to || !from || !len;
}

/* Whatever is missing in the one that is copied is zero in the copy. */
static bool copy_attrs(struct fi_info *to, const struct fi_info *from)
{
	if (from->tx_attr)
		*to->tx_attr = *from->tx_attr;
	if (from->rx_attr)
		*to->rx_attr = *from->rx_attr;
	if (from->ep_attr)
		*to->ep_attr = *from->ep_attr;
	if (from->domain_attr)
		*to->domain_attr = *from->domain_attr;
	if (from->fabric_attr)
		*to->fabric_attr = *from->fabric_attr;
	to->domain_attr->name = to->fabric_attr->name = to->fabric_attr->prov_name = NULL;
	if (from->domain_attr && !copy_text(&to->domain_attr->name, from->domain_attr->name))
		return false;
	return !from->fabric_attr ||
	       (copy_text(&to->fabric_attr->name, from->fabric_attr->name) &&
		copy_text(&to->fabric_attr->prov_name, from->fabric_attr->prov_name));
}

/* Of NULL it is an empty one; of a list its first. */
struct fi_info *fi_dupinfo(const struct fi_info *from)
{
	struct fi_info *to = make_info();
	const struct fid_nic *nic = from ? from->nic : NULL;

	if (!to || !from)
		return to;
	to->caps = from->caps;
	to->mode = from->mode;
	to->addr_format = from->addr_format;
	to->src_addrlen = from->src_addrlen;
	to->dest_addrlen = from->dest_addrlen;
	to->handle = from->handle;
	if (nic)
		to->nic = make_nic(nic->device_attr->name, nic->bus_attr->attr.pci.bus_id,
				   nic->link_attr->state == FI_LINK_UP);
	if ((!nic || to->nic) && copy_bytes(&to->src_addr, from->src_addr, from->src_addrlen) &&
	    copy_bytes(&to->dest_addr, from->dest_addr, from->dest_addrlen) && copy_attrs(to, from))
		return to;
	fi_freeinfo(to);
	return NULL;
}

/* ---- What is asked for ---------------------------------------------------------------------- */

/* The provider has what is asked for in hints; each line is a reason not to be found. */
static bool suits_domain(const struct fi_domain_attr *hints, const char *name)
{
	if (!hints)
		return true;
	return (!hints->name || !strcmp(hints->name, name)) &&
	       (hints->mr_mode & MR_MODE) == MR_MODE && !(hints->mr_mode & FI_MR_SCALABLE) &&
	       hints->cq_data_size <= sizeof(uint32_t) && hints->mr_key_size <= sizeof(uint32_t) &&
	       hints->control_progress != FI_PROGRESS_AUTO &&
	       hints->data_progress != FI_PROGRESS_AUTO;
}

static bool suits_endpoint(const struct fi_info *hints)
{
	const struct fi_tx_attr *tx = hints->tx_attr;
	const struct fi_rx_attr *rx = hints->rx_attr;
	const struct fi_ep_attr *ep = hints->ep_attr;

	if (ep && ep->type != FI_EP_UNSPEC && ep->type != FI_EP_RDM)
		return false;
	if (rx && (rx->msg_order & ~FI_ORDER_SAS || rx->size > fake_settings()->rx ||
		   rx->caps & ~RX_CAPS))
		return false;
	return !tx || (!(tx->msg_order & ~FI_ORDER_SAS) && !(tx->op_flags & ~OP_FLAGS) &&
		       !(tx->caps & ~TX_CAPS) && tx->inject_size <= FAKE_INJECT &&
		       tx->size <= fake_settings()->tx && tx->iov_limit <= 1);
}

/* There is no FI_RMA_EVENT, no memory of GPUs and nothing before 1.18. No hints are all there is. */
static bool suits(uint32_t version, const struct fi_info *hints, const char *name)
{
	const struct fi_fabric_attr *fabric = hints ? hints->fabric_attr : NULL;

	if (version < FAKE_OLDEST)
		return false;
	if (!hints)
		return true;
	if (fabric &&
	    ((fabric->prov_name && strcmp(fabric->prov_name, fake_settings()->provider)) ||
	     (fabric->name && strcmp(fabric->name, "fake_efa"))))
		return false;
	return !(hints->caps & ~CAPS) && suits_endpoint(hints) &&
	       suits_domain(hints->domain_attr, name);
}

static void fill_attrs(struct fi_info *info, const struct fi_info *hints)
{
	const struct settings *s = fake_settings();

	*info->tx_attr = (struct fi_tx_attr){
		.caps = TX_CAPS,
		.op_flags = hints && hints->tx_attr && hints->tx_attr->op_flags
				    ? hints->tx_attr->op_flags
				    : FI_TRANSMIT_COMPLETE,
		.msg_order = FI_ORDER_SAS,
		.inject_size = FAKE_INJECT,
		.size = s->tx,
		.iov_limit = 1,
		.rma_iov_limit = 1,
	};
	*info->rx_attr = (struct fi_rx_attr){
		.caps = RX_CAPS, .msg_order = FI_ORDER_SAS, .size = s->rx, .iov_limit = 1
	};
	*info->ep_attr = (struct fi_ep_attr){
		.type = FI_EP_RDM,
		.protocol = FI_PROTO_EFA,
		.protocol_version = 4,
		.max_msg_size = UINT64_MAX, /* of messages in any number of segments; so says efa */
		.tx_ctx_cnt = 1,
		.rx_ctx_cnt = 1,
	};
}

static void fill_domain(struct fi_info *info, const struct fi_info *hints)
{
	const struct fi_domain_attr *asked = hints ? hints->domain_attr : NULL;

	*info->domain_attr = (struct fi_domain_attr){
		.threading = asked && asked->threading ? asked->threading : FI_THREAD_SAFE,
		.control_progress = FI_PROGRESS_MANUAL,
		.data_progress = FI_PROGRESS_MANUAL,
		.resource_mgmt = FI_RM_ENABLED,
		.av_type = FI_AV_TABLE,
		.mr_mode = MR_MODE,
		.mr_key_size = sizeof(uint32_t),
		.cq_data_size = sizeof(uint32_t),
		.cq_cnt = 1024,
		.ep_cnt = 1024,
		.tx_ctx_cnt = 1024,
		.rx_ctx_cnt = 1024,
		.max_ep_tx_ctx = 1,
		.max_ep_rx_ctx = 1,
		.mr_iov_limit = 1,
		.caps = FI_LOCAL_COMM | FI_REMOTE_COMM,
		.mr_cnt = 1 << 16,
	};
}

static struct fi_info *offer(uint32_t version, const struct fi_info *hints, unsigned nic)
{
	struct fi_info *info = make_info();
	char device[32], domain[40], state[FAKE_PATH];
	struct nic_watch watch = { 0 };

	if (!info)
		return NULL;
	snprintf(device, sizeof(device), "fake_efa_%u", nic);
	snprintf(domain, sizeof(domain), "%s-rdm", device);
	fake_nic_state_path(state, nic);
	info->caps = CAPS;
	info->addr_format = FI_ADDR_EFA;
	fill_attrs(info, hints);
	fill_domain(info, hints);
	info->fabric_attr->prov_version = FI_VERSION(0, 1);
	info->fabric_attr->api_version = version;
	info->nic = make_nic(device, (uint8_t)(AMAZON_PCI_BUS + nic),
			     !fake_nic_down(state, &watch, clock_ns()));
	if (info->nic && copy_text(&info->domain_attr->name, domain) &&
	    copy_text(&info->fabric_attr->name, "fake_efa") &&
	    copy_text(&info->fabric_attr->prov_name, fake_settings()->provider))
		return info;
	fi_freeinfo(info);
	return NULL;
}

int fi_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags,
	       const struct fi_info *hints, struct fi_info **infos)
{
	struct fi_info *first = NULL, **end = &first;
	char name[40];

	(void)flags;
	*infos = NULL;
	/* Its addresses are nobody's names. */
	if (node || service)
		return -FI_ENODATA;
	fake_settings_read();
	for (unsigned nic = 0; nic < fake_settings()->nics; nic++) {
		snprintf(name, sizeof(name), "fake_efa_%u-rdm", nic);
		if (!suits(version, hints, name))
			continue;
		*end = offer(version, hints, nic);
		if (!*end) {
			fi_freeinfo(first);
			return -FI_ENOMEM;
		}
		end = &(*end)->next;
	}
	*infos = first;
	return first ? 0 : -FI_ENODATA;
}
