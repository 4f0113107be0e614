/* SPDX-License-Identifier: MIT
 *
 * Endpoints of the stand-in for EFA: how they are made, bound, enabled and closed. */
#include <stdlib.h>
#include <string.h>

#include "inside.h"

static struct fake_ep *ep_of(struct fid *fid)
{
	return CONTAINER(fid, struct fake_ep, fid.fid);
}

static int bind_cq(struct fake_ep *ep, struct fake_cq *cq, uint64_t flags)
{
	if (flags & ~(FI_TRANSMIT | FI_RECV | FI_SELECTIVE_COMPLETION) ||
	    !(flags & (FI_TRANSMIT | FI_RECV)))
		return -FI_EBADFLAGS;
	if ((flags & FI_TRANSMIT && ep->tx_cq) || (flags & FI_RECV && ep->rx_cq))
		return -FI_EINVAL;
	if (flags & FI_TRANSMIT) {
		ep->tx_cq = cq;
		ep->selective = flags & FI_SELECTIVE_COMPLETION;
		cq->refs++;
	}
	if (flags & FI_RECV) {
		ep->rx_cq = cq;
		cq->refs++;
	}
	return 0;
}

static int bind_av(struct fake_ep *ep, struct fake_av *av)
{
	if (ep->av)
		return -FI_EINVAL;
	ep->av = av;
	av->refs++;
	return 0;
}

static int ep_bind(struct fid *fid, struct fid *bfid, uint64_t flags)
{
	struct fake_ep *ep = ep_of(fid);
	int rc = -FI_EINVAL;

	fake_enter(ep->domain);
	if (ep->enabled)
		rc = -FI_EOPBADSTATE;
	else if (bfid->fclass == FI_CLASS_AV)
		rc = bind_av(ep, CONTAINER(bfid, struct fake_av, fid.fid));
	else if (bfid->fclass == FI_CLASS_CQ)
		rc = bind_cq(ep, CONTAINER(bfid, struct fake_cq, fid.fid), flags);
	fake_leave(ep->domain);
	return rc;
}

static int enable(struct fake_ep *ep)
{
	int rc;

	if (ep->enabled)
		return -FI_EOPBADSTATE;
	if (!ep->av)
		return -FI_ENOAV;
	if (!ep->tx_cq || !ep->rx_cq)
		return -FI_ENOCQ;
	rc = fake_segment_make(ep);
	ep->enabled = !rc;
	return rc;
}

static int ep_control(struct fid *fid, int command, void *arg)
{
	struct fake_ep *ep = ep_of(fid);
	int rc;

	(void)arg;
	if (command != FI_ENABLE)
		return -FI_ENOSYS;
	fake_enter(ep->domain);
	rc = enable(ep);
	fake_leave(ep->domain);
	return rc;
}

static int ep_getname(fid_t fid, void *addr, size_t *len)
{
	const struct fake_ep *ep = ep_of(fid);
	size_t room = *len;

	if (!ep->enabled)
		return -FI_EOPBADSTATE;
	*len = sizeof(ep->addr);
	if (room < sizeof(ep->addr))
		return -FI_ETOOSMALL;
	memcpy(addr, &ep->addr, sizeof(ep->addr));
	return 0;
}

static void forget(struct fake_ep *ep)
{
	struct fake_ep **at = &ep->domain->eps;

	while (*at != ep)
		at = &(*at)->next;
	*at = ep->next;
	ep->domain->refs--;
	if (ep->av)
		ep->av->refs--;
	if (ep->tx_cq)
		ep->tx_cq->refs--;
	if (ep->rx_cq)
		ep->rx_cq->refs--;
}

static void free_ep(struct fake_ep *ep)
{
	free(ep->ops);
	free(ep->inbound);
	free(ep->recvs);
	free(ep->sources);
	free(ep);
}

/* What has not ended by now does not end any more: nothing of it is reported. Entries that are in the queue
 * stay there. What others have sent and what is late for it does not land, and what it has sent may, for
 * LATE_BOUND_NS from when its receiver noticed. */
static int ep_close(struct fid *fid)
{
	struct fake_ep *ep = ep_of(fid);
	struct fake_domain *d = ep->domain;

	fake_enter(d);
	if (ep->enabled)
		fake_reap_all(ep);
	fake_drop_lates(ep);
	fake_segment_drop(ep);
	fake_remotes_drop(ep);
	forget(ep);
	fake_leave(d);
	free_ep(ep);
	return 0;
}

static struct fi_ops ep_fid_ops = {
	.size = sizeof(ep_fid_ops),
	.close = ep_close,
	.bind = ep_bind,
	.control = ep_control,
	.ops_open = fake_no_ops_open,
};

static struct fi_ops_ep ep_ops = {
	.size = sizeof(ep_ops),
	.getopt = fake_getopt,
	.setopt = fake_setopt,
};

static struct fi_ops_cm ep_cm_ops = {
	.size = sizeof(ep_cm_ops),
	.getname = ep_getname,
};

static int make_tables(struct fake_ep *ep, const struct fi_info *info)
{
	const struct settings *s = fake_settings();

	ep->n_ops = (uint32_t)(info->tx_attr && info->tx_attr->size ? info->tx_attr->size : s->tx);
	ep->n_recvs = info->rx_attr && info->rx_attr->size ? info->rx_attr->size : s->rx;
	if (ep->n_ops > s->tx || ep->n_recvs > s->rx)
		return -FI_EINVAL;
	ep->ops = calloc(ep->n_ops, sizeof(*ep->ops));
	ep->recvs = calloc(ep->n_recvs, sizeof(*ep->recvs));
	ep->inbound = calloc(FAKE_SLOTS, sizeof(*ep->inbound));
	return ep->ops && ep->recvs && ep->inbound ? 0 : -FI_ENOMEM;
}

int fake_ep_open(struct fid_domain *domain, struct fi_info *info, struct fid_ep **out,
		 void *context)
{
	struct fake_domain *d = CONTAINER(domain, struct fake_domain, fid);
	struct fake_ep *ep = calloc(1, sizeof(*ep));
	int rc;

	if (!ep)
		return -FI_ENOMEM;
	rc = make_tables(ep, info);
	if (rc) {
		free_ep(ep);
		return rc;
	}
	ep->domain = d;
	ep->fd = -1;
	ep->rnr_retry = RNR_RETRY_FOREVER;
	ep->op_flags = info->tx_attr ? info->tx_attr->op_flags : 0;
	ep->random = fake_seed();
	ep->silent = fake_settings()->dead == DEAD_ANY ? fake_chance(&ep->random, 2)
						       : fake_settings()->dead == DEAD_SILENT;
	ep->fid.fid = (struct fid){ .fclass = FI_CLASS_EP, .context = context, .ops = &ep_fid_ops };
	ep->fid.ops = &ep_ops;
	ep->fid.cm = &ep_cm_ops;
	ep->fid.msg = &fake_msg_ops;
	ep->fid.rma = &fake_rma_ops;
	fake_enter(d);
	ep->next = d->eps;
	d->eps = ep;
	d->refs++;
	fake_leave(d);
	*out = &ep->fid;
	return 0;
}
