/* Multi-scale deformable attention in float32; see deform_attention.py.
 *
 * Values are (batch, keys, heads, dim), the pixels of all levels one after the other; locations (batch, queries,
 * heads, levels, points, 2) as x, y in [0, 1]; weights (batch, queries, heads, levels, points); results (batch,
 * queries, heads, dim). sizes holds height and width of each level. Functions return 0. */
#include "vectors.h"
#include <math.h>

struct sizes {
    const long *levels;
    long keys, heads, dim, count, queries, points;
};

/* The pixels around a sample: how far each is from the first pixel of its level, -1 if outside; its weight, and the
 * derivatives of the weight by the sample's x and y in pixels. */
struct corners {
    long at[4];
    float weight[4], by_x[4], by_y[4];
};

/* Computes the pixels around a sample at (x, y) in pixels; 0 if none is on the map. Where x or y is not finite, neither
 * is the result, as in PyTorch: it must not vanish. */
static inline int find_corners(float x, float y, long height, long width, struct corners *c)
{
    if (!isfinite(x) || !isfinite(y)) {
        *c = (struct corners){{0, -1, -1, -1}, {NAN}, {NAN}, {NAN}};
        return 1;
    }
    if (!(x > -1 && y > -1 && x < width && y < height))
        return 0;
    float left = floorf(x), top = floorf(y);
    long column = (long)left, row = (long)top;
    float share[2][2] = {{1 - (y - top), y - top}, {1 - (x - left), x - left}};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            int inside = row + i >= 0 && row + i < height && column + j >= 0 && column + j < width;
            c->at[2 * i + j] = inside ? (row + i) * width + column + j : -1;
            c->weight[2 * i + j] = share[0][i] * share[1][j];
            c->by_x[2 * i + j] = j ? share[0][i] : -share[0][i];
            c->by_y[2 * i + j] = i ? share[1][j] : -share[1][j];
        }
    return 1;
}

/* Adds up `vectors` vectors of channels of all samples of a query in a head, or the `left` channels of one. */
static inline __attribute__((always_inline)) void attend(const float *value, const float *location,
                                                         const float *weight, float *out, const struct sizes *s,
                                                         const int vectors, long left)
{
    Vector sums[vectors];
    memset(sums, 0, sizeof sums);
    for (long level = 0; level < s->count; level++) {
        long height = s->levels[2 * level], width = s->levels[2 * level + 1];
        for (long p = 0; p < s->points; p++, location += 2, weight++) {
            struct corners c;
            if (!find_corners(location[0] * width - 0.5f, location[1] * height - 0.5f, height, width, &c))
                continue;
            for (int k = 0; k < 4; k++) {
                if (c.at[k] < 0)
                    continue;
                const float *pixel = value + c.at[k] * s->heads * s->dim;
                float share = c.weight[k] * *weight;
                for (int v = 0; v < vectors; v++)
                    sums[v] += share * load(pixel + v * LANES, left - v * LANES);
            }
        }
        value += height * width * s->heads * s->dim;
    }
    for (int v = 0; v < vectors; v++)
        store(out + v * LANES, sums[v], left - v * LANES);
}

int deform_attention(const float *values, const float *locations, const float *weights, float *out, const long *levels,
                     long batch, long keys, long heads, long dim, long count, long queries, long points, int threads)
{
    struct sizes s = {levels, keys, heads, dim, count, queries, points};
    long samples = count * points;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < batch * queries; i++)
        for (long head = 0; head < heads; head++) {
            long place = i * heads + head, channel = 0;
            const float *value = values + (i / queries * keys * heads + head) * dim;
            const float *location = locations + place * samples * 2, *weight = weights + place * samples;
            float *into = out + place * dim;
            for (; dim - channel >= 4 * LANES; channel += 4 * LANES)
                attend(value + channel, location, weight, into + channel, &s, 4, 4 * LANES);
            for (; dim - channel >= 2 * LANES; channel += 2 * LANES)
                attend(value + channel, location, weight, into + channel, &s, 2, 2 * LANES);
            for (; channel < dim; channel += LANES)
                attend(value + channel, location, weight, into + channel, &s, 1, dim - channel);
        }
    return 0;
}

/* The dot products of the gradient of a result with the pixels around a sample; adds to the gradient of these. */
static inline __attribute__((always_inline)) void back_to_pixels(const float *value, const float *grad,
                                                                 float *grad_value, const struct corners *c,
                                                                 float weight, float *dots, const struct sizes *s)
{
    for (int k = 0; k < 4; k++) {
        dots[k] = 0;
        if (c->at[k] < 0)
            continue;
        long at = c->at[k] * s->heads * s->dim;
        float share = c->weight[k] * weight;
        Vector products = {0};
        for (long channel = 0; channel < s->dim; channel += LANES) {
            long left = s->dim - channel;
            Vector g = load(grad + channel, left);
            float *into = grad_value + at + channel;
            products += g * load(value + at + channel, left);
            store(into, load(into, left) + share * g, left);
        }
        dots[k] = sum_of(products);
    }
}

/* The gradient of a head of an image: no other one touches the same memory. */
static void head_backward(const float *values, const float *locations, const float *weights, const float *grads,
                          float *grad_values, float *grad_locations, float *grad_weights, const struct sizes *s,
                          long image, long head)
{
    long samples = s->count * s->points, first = (image * s->keys * s->heads + head) * s->dim;
    for (long query = 0; query < s->queries; query++) {
        long place = (image * s->queries + query) * s->heads + head, sample = place * samples;
        long pixel = first;
        for (long level = 0; level < s->count; level++) {
            long height = s->levels[2 * level], width = s->levels[2 * level + 1];
            for (long p = 0; p < s->points; p++, sample++) {
                struct corners c;
                float sums[3] = {0}, dots[4];
                float x = locations[2 * sample] * width - 0.5f, y = locations[2 * sample + 1] * height - 0.5f;
                if (find_corners(x, y, height, width, &c)) {
                    back_to_pixels(values + pixel, grads + place * s->dim, grad_values + pixel, &c, weights[sample],
                                   dots, s);
                    for (int k = 0; k < 4; k++) {
                        sums[0] += c.weight[k] * dots[k];
                        sums[1] += c.by_x[k] * dots[k];
                        sums[2] += c.by_y[k] * dots[k];
                    }
                }
                grad_weights[sample] = sums[0];
                grad_locations[2 * sample] = weights[sample] * width * sums[1];
                grad_locations[2 * sample + 1] = weights[sample] * height * sums[2];
            }
            pixel += height * width * s->heads * s->dim;
        }
    }
}

/* Adds to grad_values, which are zeros; writes the other two. */
int deform_attention_backward(const float *values, const float *locations, const float *weights, const float *grads,
                              float *grad_values, float *grad_locations, float *grad_weights, const long *levels,
                              long batch, long keys, long heads, long dim, long count, long queries, long points,
                              int threads)
{
    struct sizes s = {levels, keys, heads, dim, count, queries, points};
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long i = 0; i < batch * heads; i++)
        head_backward(values, locations, weights, grads, grad_values, grad_locations, grad_weights, &s, i / heads,
                      i % heads);
    return 0;
}
