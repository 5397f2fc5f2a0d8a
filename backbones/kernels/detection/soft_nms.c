/* Soft-NMS (Bodla et al. 2017, arXiv 1704.04503), greedily and in float64; see soft_nms.py.
 *
 * Boxes are (count, 4): x1, y1, x2, y2. Scores are changed. `order` receives the indices of the boxes that are kept,
 * best first, `*kept` how many they are, and `left` is memory for count indices. */
#include <math.h>

static double area(const double *box, double offset)
{
    return (box[2] - box[0] + offset) * (box[3] - box[1] + offset);
}

static double iou(const double *a, const double *b, double offset)
{
    double width = fmin(a[2], b[2]) - fmax(a[0], b[0]) + offset;
    double height = fmin(a[3], b[3]) - fmax(a[1], b[1]) + offset;
    double overlap = fmax(width, 0) * fmax(height, 0);
    return overlap / (area(a, offset) + area(b, offset) - overlap);
}

/* options: threshold of IoU, sigma, lowest score; method 0: naive, 1: linear, 2: Gaussian */
int soft_nms(const double *boxes, double *scores, long *order, long *kept, long *left, const double *options,
             long count, long method, long offset, int threads)
{
    long remaining = count;
    (void)threads;
    for (long i = 0; i < count; i++)
        left[i] = i;
    *kept = 0;
    while (remaining) {
        long best = 0;
        for (long i = 1; i < remaining; i++)
            if (scores[left[i]] > scores[left[best]])
                best = i;
        long chosen = left[best], still = 0;
        order[(*kept)++] = chosen;
        for (long i = 0; i < remaining; i++) {
            long other = left[i];
            if (i == best)
                continue;
            double shared = iou(boxes + 4 * chosen, boxes + 4 * other, offset);
            if (method == 2)
                scores[other] *= exp(-shared * shared / options[1]);
            else if (shared >= options[0])
                scores[other] *= method == 1 ? 1 - shared : 0;
            if (scores[other] >= options[2])
                left[still++] = other;
        }
        remaining = still;
    }
    return 0;
}
