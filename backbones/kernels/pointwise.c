/* GELU and LayerNorm of a ConvNeXt block on a CPU; see cpu_kernels.py.
 *
 * Rows are pixels. Everything is compiled for the machine it is for; without OpenMP on one thread. */
#include "vectors.h"
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

/* Sums of each thread's own, added up in the order of threads: the same bits every time. */
static void add_up(float *total, const float *parts, long columns, long stride, int threads)
{
    for (int thread = 0; thread < threads; thread++)
        for (long c = 0; c < columns; c++)
            total[c] += parts[thread * stride + c];
}

/* Normal distribution: density at x, and probability of less than x. The tail is density times a polynomial
 * in t = 1 / (1 + |x| / 4), fitted to it with a relative error of 5e-8. */
static inline Vector normal(Vector x, Vector *density)
{
    const Vector far = (Vector){0} + 13.2f, magic = (Vector){0} + 12582912.0f; /* 1.5 x 2^23 */
    Vector size = (Vector)((Integers)x & 0x7fffffff);
    size = choose(size < far, size, far);
    Vector t = 1.0f / (1.0f + 0.25f * size);
    Vector power = -0.5f * size * size;
    Vector whole = power * 1.44269504f + magic - magic; /* rounded */
    Vector rest = power - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vector e = 1.0f + rest * (1.0f + rest * (0.5f + rest * (1.66666667e-1f + rest * (4.16666667e-2f
             + rest * (8.33333333e-3f + rest * 1.38888889e-3f)))));
    e *= (Vector)((__builtin_convertvector(whole, Integers) + 127) << 23);
    static const float fitted[] = {2.665042788e-2f, -1.573981805e-1f, 3.058039808e-1f, -2.171319035e-1f,
                                   2.098239020e-1f, 2.937596240e-2f,  1.046914445e-1f, 9.837829285e-2f,
                                   9.980604937e-2f};
    Vector tail = {0};
    for (int i = 0; i < 9; i++)
        tail = tail * t + fitted[i];
    tail *= t * e;
    *density = 0.398942280f * e;
    return choose(x < 0, tail, 1.0f - tail);
}

/* GELU of x. The normal distribution's tail beyond |x| is (1 / p)^8 / 2 with a polynomial p in |x|, fitted so that
 * the GELU is wrong by 2e-7 at most. */
static inline Vector gelu_of(Vector x)
{
    static const float fitted[] = {2.932487621e-6f, -1.674714634e-5f, 9.758187045e-5f, 1.113515632e-4f,
                                   9.806615708e-4f, 8.591632210e-3f,  4.478880118e-2f, 9.973249534e-2f, 1.0f};
    Vector size = (Vector)((Integers)x & 0x7fffffff), p = {0};
    for (int i = 0; i < 9; i++)
        p = p * size + fitted[i];
    Vector tail = 1.0f / p;
    tail *= tail;
    tail *= tail;
    tail *= 0.5f * tail;
    return x * choose(x < 0, tail, 1.0f - tail);
}

/* GELU of x plus bias into out, which may be x; squares get the columns' sums of its squares added. Bias and
 * squares may be null. */
void gelu(const float *x, const float *bias, float *out, float *squares, long rows, long columns, int threads)
{
    long stride = columns + LANES;
    float *parts = squares ? calloc(threads * stride, sizeof(float)) : 0;
#pragma omp parallel num_threads(threads)
    {
        float *sums = parts ? parts + omp_get_thread_num() * stride : 0;
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < columns; c += LANES) {
                long at = row * columns + c, left = columns - c;
                Vector value = load(x + at, left);
                if (bias)
                    value += load(bias + c, left);
                value = gelu_of(value);
                store(out + at, value, left);
                if (sums)
                    *(Vector *)(sums + c) += value * value;
            }
    }
    if (squares)
        add_up(squares, parts, columns, stride, threads);
    free(parts);
}

/* From x and the gradient of the GELU of x plus bias to the GELU and the gradient of x, in their places. The
 * gradient of the GELU has pull times the GELU added first; sums get the columns of the gradient of x. Bias and
 * pull may be null. */
void gelu_back(float *x, const float *bias, float *gradient, const float *pull, float *sums, long rows,
               long columns, int threads)
{
    long stride = columns + LANES;
    float *parts = calloc(threads * stride, sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *ours = parts + omp_get_thread_num() * stride;
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < columns; c += LANES) {
                float *at = x + row * columns + c, *towards = gradient + row * columns + c;
                long left = columns - c;
                Vector density, before = load(at, left), grad = load(towards, left);
                if (bias)
                    before += load(bias + c, left);
                Vector probability = normal(before, &density), after = before * probability;
                if (pull)
                    grad += after * load(pull + c, left);
                grad *= probability + before * density;
                store(at, after, left);
                store(towards, grad, left);
                *(Vector *)(ours + c) += grad;
            }
    }
    add_up(sums, parts, columns, stride, threads);
    free(parts);
}

/* LayerNorm's backward pass: gradient of its input into out, of its parameters added to grad_weight, grad_bias. */
void norm_back(const float *gradient, const float *x, const float *mean, const float *rstd, const float *weight,
               float *out, float *grad_weight, float *grad_bias, long rows, long columns, int threads)
{
    long half = columns + LANES, stride = 2 * half;
    float *parts = calloc(threads * stride, sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *ours = parts + omp_get_thread_num() * stride, *biases = ours + half;
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            const float *towards = gradient + row * columns, *from = x + row * columns;
            Vector all = {0}, along = {0};
            for (long c = 0; c < columns; c += LANES) {
                long left = columns - c;
                Vector grad = load(towards + c, left);
                Vector normed = (load(from + c, left) - mean[row]) * rstd[row];
                *(Vector *)(ours + c) += grad * normed;
                *(Vector *)(biases + c) += grad;
                grad *= load(weight + c, left);
                all += grad;
                along += grad * normed;
            }
            float a = sum_of(all) / columns, b = sum_of(along) / columns;
            for (long c = 0; c < columns; c += LANES) {
                long left = columns - c;
                Vector normed = (load(from + c, left) - mean[row]) * rstd[row];
                Vector grad = load(towards + c, left) * load(weight + c, left);
                store(out + row * columns + c, (grad - a - normed * b) * rstd[row], left);
            }
        }
    }
    add_up(grad_weight, parts, columns, stride, threads);
    add_up(grad_bias, parts + half, columns, stride, threads);
    free(parts);
}
