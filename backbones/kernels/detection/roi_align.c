/* RoIAlign of channels_last feature maps; see roi_align.py.
 *
 * The mean of bilinear samples on a grid is separable: each row and each column of the map has a weight in each
 * bin. Maps are (n, height, width, channels), results (boxes, channels, bins), boxes (image, x1, y1, x2, y2).
 * Functions return 0, or 1 if they ran out of memory. */
#include "vectors.h"
#include <math.h>
#include <stdlib.h>

enum { BLOCK = 64 }; /* channels, in registers */

struct geometry {
    long height, width, channels, bins_y, bins_x, sampling, aligned;
    float scale;
};

/* The weights of an axis's lines in each bin: of length[bin] lines from first[bin] on, in steps of size. */
struct axis {
    long *first, *length;
    float *weights;
};

/* The working memory of one thread; a null tile means that there was not enough. */
struct workspace {
    struct axis y, x;
    float *tile;
};

static void free_workspace(struct workspace *w)
{
    void *all[] = {w->y.first, w->y.length, w->y.weights, w->x.first, w->x.length, w->x.weights, w->tile};
    for (int i = 0; i < 7; i++)
        free(all[i]);
    w->tile = 0;
}

static struct axis new_axis(long bins, long size)
{
    struct axis axis = {malloc(bins * sizeof(long)), malloc(bins * sizeof(long)), malloc(bins * size * sizeof(float))};
    return axis;
}

static int is_whole(const struct axis *axis)
{
    return axis->first && axis->length && axis->weights;
}

static struct workspace new_workspace(const struct geometry *g, long tile_size)
{
    struct workspace w = {new_axis(g->bins_y, g->height), new_axis(g->bins_x, g->width),
                          malloc(tile_size * sizeof(float))};
    if (!is_whole(&w.y) || !is_whole(&w.x))
        free_workspace(&w);
    return w;
}

static void weigh(struct axis *axis, float start, float extent, long bins, long size, long sampling)
{
    float bin_size = extent / bins;
    float pixels = ceilf(bin_size);
    long samples = sampling > 0 ? sampling : pixels > 0 && pixels < 1e6f ? (long)pixels : 0;
    for (long bin = 0; bin < bins; bin++) {
        float *weights = axis->weights + bin * size;
        axis->first[bin] = axis->length[bin] = 0;
        for (long i = 0; i < samples; i++) {
            long step = bin_size < 0 ? samples - 1 - i : i; /* ascending, also in a box of negative size */
            float at = start + bin * bin_size + (step + 0.5f) * bin_size / samples;
            if (!(at >= -1.0f && at <= size))
                continue; /* outside, or not a number */
            at = at > 0 ? at : 0;
            long low = (long)at, high = low + 1;
            if (low >= size - 1)
                at = low = high = size - 1;
            if (!axis->length[bin])
                axis->first[bin] = low;
            long end = high - axis->first[bin] + 1;
            for (; axis->length[bin] < end; axis->length[bin]++)
                weights[axis->length[bin]] = 0;
            float share = at - low;
            weights[low - axis->first[bin]] += (1 - share) / samples;
            weights[high - axis->first[bin]] += share / samples;
        }
    }
}

/* Computes the weights of both axes for a box, and its image; 0 if there is no such image. */
static int place(const float *box, long images, const struct geometry *g, struct axis *y, struct axis *x, long *image)
{
    float offset = g->aligned ? 0.5f : 0.0f;
    float left = box[1] * g->scale - offset, top = box[2] * g->scale - offset;
    float width = box[3] * g->scale - offset - left, height = box[4] * g->scale - offset - top;
    if (!g->aligned) {
        width = width > 1 ? width : 1;
        height = height > 1 ? height : 1;
    }
    *image = (long)box[0];
    if (*image < 0 || *image >= images)
        return 0;
    weigh(y, top, height, g->bins_y, g->height, g->sampling);
    weigh(x, left, width, g->bins_x, g->width, g->sampling);
    return 1;
}

int roi_align(const float *maps, const float *boxes, float *out, long images, long height, long width, long channels,
               long count, long bins_y, long bins_x, long sampling, long aligned, float scale, int threads)
{
    struct geometry g = {height, width, channels, bins_y, bins_x, sampling, aligned, scale};
    long bins = bins_y * bins_x;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        struct workspace w = new_workspace(&g, bins * channels + BLOCK);
        struct axis y = w.y, x = w.x;
        float *tile = w.tile;
#pragma omp for schedule(dynamic, 8)
        for (long k = 0; k < count; k++) {
            if (!tile) {
                failed = 1;
                continue;
            }
            float *into = out + k * channels * bins;
            long image;
            if (!place(boxes + 5 * k, images, &g, &y, &x, &image)) {
                memset(into, 0, channels * bins * sizeof(float));
                continue;
            }
            const float *map = maps + image * height * width * channels;
            for (long bin = 0; bin < bins; bin++) {
                long by = bin / bins_x, bx = bin % bins_x;
                const float *corner = map + (y.first[by] * width + x.first[bx]) * channels;
                for (long c = 0; c < channels; c += BLOCK) {
                    Vector sums[BLOCK / LANES];
                    memset(sums, 0, sizeof sums);
                    long left = channels - c;
                    for (long i = 0; i < y.length[by]; i++)
                        for (long j = 0; j < x.length[bx]; j++) {
                            float weight = y.weights[by * height + i] * x.weights[bx * width + j];
                            const float *from = corner + (i * width + j) * channels + c;
                            if (left >= BLOCK)
                                for (int v = 0; v < BLOCK / LANES; v++)
                                    sums[v] += weight * *(const Vector *)(from + v * LANES);
                            else
                                for (long l = 0; l < left; l++)
                                    ((float *)sums)[l] += weight * from[l];
                        }
                    memcpy(tile + bin * channels + c, sums, sizeof sums); /* the rest is overwritten */
                }
            }
            for (long c = 0; c < channels; c++)
                for (long bin = 0; bin < bins; bin++)
                    into[c * bins + bin] = tile[bin * channels + c];
        }
        free_workspace(&w);
    }
    return failed;
}

/* Adds the gradient of the maps to grad_maps; each thread computes different channels. */
int roi_align_backward(const float *grad, const float *boxes, float *grad_maps, long images, long height, long width,
                    long channels, long count, long bins_y, long bins_x, long sampling, long aligned, float scale,
                    int threads)
{
    struct geometry g = {height, width, channels, bins_y, bins_x, sampling, aligned, scale};
    long bins = bins_y * bins_x, blocks = (channels + BLOCK - 1) / BLOCK;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        struct workspace w = new_workspace(&g, bins * BLOCK);
        struct axis y = w.y, x = w.x;
        float *tile = w.tile;
#pragma omp for schedule(static)
        for (long block = 0; block < blocks; block++) {
            if (!tile) {
                failed = 1;
                continue;
            }
            long c = block * BLOCK, left = channels - c < BLOCK ? channels - c : BLOCK;
            for (long k = 0; k < count; k++) {
                long image;
                if (!place(boxes + 5 * k, images, &g, &y, &x, &image))
                    continue;
                const float *from = grad + (k * channels + c) * bins;
                for (long l = 0; l < left; l++)
                    for (long bin = 0; bin < bins; bin++)
                        tile[bin * BLOCK + l] = from[l * bins + bin];
                float *map = grad_maps + image * height * width * channels + c;
                for (long bin = 0; bin < bins; bin++) {
                    long by = bin / bins_x, bx = bin % bins_x;
                    const float *grad_bin = tile + bin * BLOCK;
                    for (long i = 0; i < y.length[by]; i++)
                        for (long j = 0; j < x.length[bx]; j++) {
                            float weight = y.weights[by * height + i] * x.weights[bx * width + j];
                            float *into = map + ((y.first[by] + i) * width + x.first[bx] + j) * channels;
                            if (left == BLOCK)
                                for (int v = 0; v < BLOCK; v += LANES)
                                    *(Vector *)(into + v) += weight * *(const Vector *)(grad_bin + v);
                            else
                                for (long l = 0; l < left; l++)
                                    into[l] += weight * grad_bin[l];
                        }
                }
            }
        }
        free_workspace(&w);
    }
    return failed;
}
