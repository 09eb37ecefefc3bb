/* SPDX-License-Identifier: Apache-2.0 */
/* steps.c - the steps of a pass that are cut into items of weight rows for the workers. */
#include "steps.h"

/* Weight bytes in one item of a matrix-vector step: some microseconds of reading. */
#define ITEM_BYTES 32768u

static uint32_t items_of(const struct kve_matrix *w, uint32_t item_rows)
{
    return (w->rows + item_rows - 1) / item_rows;
}

/* Which rows an item stands for; moves *item to the number inside its part. */
static uint32_t part_of(const struct kve_project *j, uint32_t *item)
{
    uint32_t part = 0;

    while (*item >= items_of(j->part[part].w, j->item_rows))
        *item -= items_of(j->part[part++].w, j->item_rows);
    return part;
}

static uint32_t rows_of(const struct kve_matrix *w, uint32_t first, uint32_t item_rows)
{
    return w->rows - first < item_rows ? w->rows - first : item_rows;
}

static void project_panel(void *arg, uint32_t item, uint32_t worker)
{
    const struct kve_project *j = arg;
    const uint32_t part = part_of(j, &item);
    const struct kve_matrix *w = j->part[part].w;
    const uint32_t first = item * j->item_rows;

    if (kve_matmul_panel(j->r->kernels,
                         &(struct kve_panel){.w = w,
                                             .first = first,
                                             .rows = rows_of(w, first, j->item_rows),
                                             .x = j->x,
                                             .tokens = j->tokens,
                                             .at_once = j->r->cut_tokens,
                                             .y = j->part[part].y + first,
                                             .y_stride = w->rows,
                                             .add = j->add,
                                             .scratch = j->r->scratch[worker].panel}) != KVW_OK)
        atomic_store(&j->r->failed, true);
}

static void multiply(const struct kve_run *r, const struct kve_product *p)
{
    if (p->n == 1)
        r->kernels->matvec(p->w, p->first, p->rows, p->x, p->y);
    else
        r->kernels->matvecs(p);
}

/* Products by panels are for many tokens that may depend on each other's number. */
static bool by_panels(const struct kve_run *r, uint32_t tokens)
{
    return tokens > 1 && !r->apart;
}

static void project_rows(void *arg, uint32_t item, uint32_t worker)
{
    const struct kve_project *j = arg;
    const uint32_t part = part_of(j, &item);
    const struct kve_matrix *w = j->part[part].w;
    const uint32_t first = item * j->item_rows, rows = rows_of(w, first, j->item_rows);
    float *y = j->part[part].y + first;

    if (!j->add) {
        multiply(j->r, &(struct kve_product){w, first, rows, j->x, j->tokens, y, w->rows});
        return;
    }

    float *sum = j->r->scratch[worker].panel; /* item_rows of each token fit: see row_items() */

    multiply(j->r, &(struct kve_product){w, first, rows, j->x, j->tokens, sum, rows});
    for (uint32_t t = 0; t < j->tokens; ++t) {
        for (uint32_t i = 0; i < rows; ++i)
            y[(size_t)t * w->rows + i] += sum[t * rows + i];
    }
}

/* Rows per item of a matrix-vector step. At most KVE_PANEL_ROWS * 4, which scratch can hold. */
static uint32_t row_items(const struct kve_matrix *w)
{
    const uint64_t rows = ITEM_BYTES / w->row_bytes / 4 * 4;

    return rows < 4 ? 4 : rows > KVE_PANEL_ROWS ? KVE_PANEL_ROWS : (uint32_t)rows;
}

void kve_project(struct kve_project *j)
{
    uint32_t items = 0;

    const bool panels = by_panels(j->r, j->tokens);

    j->item_rows = panels ? KVE_PANEL_ROWS : row_items(j->part[0].w);
    for (uint32_t i = 0; i < j->parts; ++i)
        items += items_of(j->part[i].w, j->item_rows);
    kve_pool_run(j->r->pool, items, panels ? project_panel : project_rows, j);
}

typedef void activation(float *gate, const float *up, size_t n);

static activation *activation_of(const struct kve_run *r)
{
    return r->m->config.gelu ? r->kernels->gelu_mul : r->kernels->silu_mul;
}

static void gate_up_panel(void *arg, uint32_t item, uint32_t worker)
{
    const struct kve_gate_up *j = arg;
    struct kve_run *r = j->r;
    const uint32_t ffn = r->m->config.ffn, first = item * j->item_rows;
    struct kve_panel p = {.w = &j->layer->ffn_gate,
                          .first = first,
                          .rows = rows_of(&j->layer->ffn_gate, first, j->item_rows),
                          .x = j->x,
                          .tokens = j->tokens,
                          .at_once = r->cut_tokens,
                          .y = j->ffn + first,
                          .y_stride = ffn,
                          .scratch = r->scratch[worker].panel};

    if (kve_matmul_panel(r->kernels, &p) != KVW_OK)
        atomic_store(&r->failed, true);
    p.w = &j->layer->ffn_up;
    p.y = r->scratch[worker].up;
    p.y_stride = KVE_PANEL_ROWS;
    if (kve_matmul_panel(r->kernels, &p) != KVW_OK)
        atomic_store(&r->failed, true);
    for (uint32_t t = 0; t < j->tokens; ++t)
        activation_of(r)(j->ffn + (size_t)t * ffn + first, p.y + (size_t)t * KVE_PANEL_ROWS,
                         p.rows);
}

static void gate_up_rows(void *arg, uint32_t item, uint32_t worker)
{
    const struct kve_gate_up *j = arg;
    struct kve_run *r = j->r;
    const uint32_t first = item * j->item_rows;
    const uint32_t rows = rows_of(&j->layer->ffn_gate, first, j->item_rows);
    float *gate = j->ffn + first, *up = r->scratch[worker].up;
    const size_t ffn = j->layer->ffn_gate.rows;

    multiply(r,
             &(struct kve_product){&j->layer->ffn_gate, first, rows, j->x, j->tokens, gate, ffn});
    multiply(r, &(struct kve_product){&j->layer->ffn_up, first, rows, j->x, j->tokens, up, rows});
    for (uint32_t t = 0; t < j->tokens; ++t)
        activation_of(r)(gate + t * ffn, up + (size_t)t * rows, rows);
}

void kve_gate_up(struct kve_gate_up *j)
{
    const struct kve_matrix *w = &j->layer->ffn_gate;

    const bool panels = by_panels(j->r, j->tokens);

    j->item_rows = panels ? KVE_PANEL_ROWS : row_items(w);
    kve_pool_run(j->r->pool, items_of(w, j->item_rows), panels ? gate_up_panel : gate_up_rows, j);
}

void kve_norm_rows(const struct kve_run *r, float *y, const float *x, const float *w,
                   uint32_t tokens)
{
    const struct kve_model_config *c = &r->m->config;

    for (uint32_t t = 0; t < tokens; ++t)
        r->kernels->rmsnorm(y + (size_t)t * c->hidden, x + (size_t)t * c->hidden, w, c->hidden,
                            c->rms_eps);
}
