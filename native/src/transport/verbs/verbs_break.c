/* SPDX-License-Identifier: MIT
 *
 * Connections that break or are stopped, ports that go down, devices that are taken away. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "transport/verbs/verbs.h"
#include "util/clock.h"
#include "util/log.h"

/* A device that does not say that a queue pair takes no more receives is given this long. */
#define STILL_NS 50000000ull

/* ---- Queue pairs ---- */

/* Nothing of it lands any more then; false: the device does not do even that. */
static bool to_error(const struct verbs_domain *d, const struct verbs_queue *q)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	return !d->lib->modify_qp(q->qp, &attr, IBV_QP_STATE);
}

/* Flushed behind all others, it says that they have ended. */
static bool post_last(const struct verbs_queue *q)
{
	struct ibv_send_wr last = { .wr_id = VERBS_ID_LAST,
				    .opcode = q->kind == QUEUE_WRITES ? IBV_WR_RDMA_WRITE
								      : IBV_WR_SEND,
				    .send_flags = IBV_SEND_SIGNALED };
	struct ibv_send_wr *bad;

	return !ibv_post_send(q->qp, &last, &bad);
}

/* Nothing more will be heard of it. */
static void give_up(struct verbs_queue *q)
{
	q->last_wqe = true;
	verbs_end(q, q->posted, -ECONNABORTED);
}

void verbs_break(struct verbs_conn *c, int status)
{
	struct verbs_domain *d = conn_domain(c);

	if (c->status)
		return;
	c->status = status;
	d->suspicious = true;
	if (d->chain.queue && d->chain.queue->conn == c)
		d->chain.queue = NULL;
	for (unsigned k = 0; k < N_QUEUES; k++) {
		struct verbs_queue *q = &c->queues[k];

		if (!to_error(d, q))
			give_up(q);
		else if (c->attached && !post_last(q))
			verbs_end(q, q->posted, -ECONNABORTED);
	}
	c->fence_ns = clock_ns() + STILL_NS;
	verbs_news(c);
}

void verbs_conn_stop(struct conn *conn)
{
	struct verbs_conn *c = verbs_conn(conn);

	c->stopping = true;
	verbs_break(c, -ECONNABORTED);
	verbs_news(c);
}

void verbs_conn_fence(struct conn *conn)
{
	struct verbs_conn *c = verbs_conn(conn);

	c->fencing = true;
	verbs_news(c);
}

bool verbs_is_still(struct verbs_conn *c)
{
	bool still = true;

	for (unsigned k = 0; k < N_QUEUES; k++)
		still &= c->queues[k].last_wqe;
	return still || clock_ns() >= c->fence_ns;
}

/* ---- The port and the device ---- */

static void nic_down(struct verbs_domain *d, int status, bool for_good)
{
	d->gone |= for_good;
	if (d->down)
		return;
	d->down = true;
	d->nic_status = status;
	d->tell_nic = true;
}

static void nic_up(struct verbs_domain *d)
{
	struct pg_error err = { 0 };

	if (!d->down || d->gone)
		return;
	/* Its addresses may have moved. */
	if (verbs_port_refresh(d->lib, &d->options, &d->port, &err)) {
		log_warn("%s is back, but: %s", d->domain.name, err.text);
		return;
	}
	d->down = false;
	d->nic_status = 0;
	d->tell_nic = true;
}

/* Where it is in its subnet, or its addresses: new connections have to say so. */
static void port_changed(struct verbs_domain *d)
{
	struct pg_error err = { 0 };

	if (d->down)
		nic_up(d);
	else if (verbs_port_refresh(d->lib, &d->options, &d->port, &err))
		log_warn("%s has changed: %s", d->domain.name, err.text);
}

static void device_lost(struct verbs_domain *d, const char *why)
{
	log_warn("%s is lost: %s", d->domain.name, why);
	nic_down(d, -ENODEV, true);
	/* They would be ready for ever. */
	epoll_ctl(d->domain.fd, EPOLL_CTL_DEL, d->channel->fd, NULL);
	epoll_ctl(d->domain.fd, EPOLL_CTL_DEL, d->port.context->async_fd, NULL);
	for (struct list *l = d->conns.next; l != &d->conns; l = l->next) {
		struct verbs_conn *c = LIST_ENTRY(l, struct verbs_conn, link);

		verbs_break(c, -ENODEV);
		/* Also of those that were in error already nothing more is heard. */
		for (unsigned k = 0; k < N_QUEUES; k++)
			give_up(&c->queues[k]);
	}
}

static void queue_event(struct verbs_domain *d, const struct ibv_async_event *event)
{
	struct verbs_queue *q = verbs_queue_find(d, event->element.qp->qp_num);

	if (!q)
		return;
	if (event->event_type == IBV_EVENT_QP_LAST_WQE_REACHED) {
		q->last_wqe = true;
		verbs_news(q->conn);
	} else if (event->event_type != IBV_EVENT_COMM_EST &&
		   event->event_type != IBV_EVENT_SQ_DRAINED) {
		log_warn("%s: queue pair %u: %s", d->domain.name, event->element.qp->qp_num,
			 d->lib->event_type_str(event->event_type));
		verbs_break(q->conn, -EIO);
	}
}

static void take_event(struct verbs_domain *d, const struct ibv_async_event *event)
{
	switch (event->event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
	case IBV_EVENT_PATH_MIG_ERR:
		queue_event(d, event);
		break;
	case IBV_EVENT_PORT_ERR:
		if (event->element.port_num == d->port.number)
			nic_down(d, -ENETDOWN, false);
		break;
	case IBV_EVENT_PORT_ACTIVE:
		if (event->element.port_num == d->port.number)
			nic_up(d);
		break;
	case IBV_EVENT_LID_CHANGE:
	case IBV_EVENT_PKEY_CHANGE:
	case IBV_EVENT_GID_CHANGE:
		if (event->element.port_num == d->port.number)
			port_changed(d);
		break;
	case IBV_EVENT_CQ_ERR:
	case IBV_EVENT_SRQ_ERR:
	case IBV_EVENT_DEVICE_FATAL:
		device_lost(d, d->lib->event_type_str(event->event_type));
		break;
	default:
		log_info("%s: %s", d->domain.name, d->lib->event_type_str(event->event_type));
		break;
	}
}

void verbs_events(struct verbs_domain *d)
{
	struct ibv_async_event event;

	while (!d->lib->get_async_event(d->port.context, &event)) {
		take_event(d, &event);
		d->lib->ack_async_event(&event);
	}
	/* A device that was taken away says so once, and has nothing to say any more. */
	if (errno == EIO && !d->gone)
		device_lost(d, "it was taken away");
}
