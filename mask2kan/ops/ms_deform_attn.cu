// Multi-scale deformable attention on NVIDIA cards, forward and backward.
//
// Compiled at run time by NVRTC, without headers, for one value type and one head size at a time
// (see cuda.py); compiled as plain C++ by the tests, which run it thread by thread.
//
// Who does what. A block works for one image and one head, on neighbouring queries, whose points lie
// close together: what one reads is in the cache for the next. Within a warp, a group of threads
// (the smallest power of two that covers a head's channels 16 bytes at a time) belongs to a query.
// First all threads of the warp work out where the points lie, one point each, and leave that in
// shared memory; then each group gathers its query's points, each thread its 16 bytes of a row. So
// the arithmetic of a point is done once, not once per channel, and every load is as wide as loads
// can be. Nothing is shared between warps, so no warp waits for another.
//
// Backward, the three numbers a point gets back are summed across the group by shuffles, and the
// gradient of value is added to memory in float32, four channels at a time: one operation on chips
// with vector atomics (sm_90 on). The order of these additions, and with it the last bit, is not
// the same in every run.
//
// Dimensions: B images, S positions of all levels, Q queries, M heads, D channels of a head,
// L levels, P points, K = L * P samples of a query and head. Locations are (x, y), rows of a map
// run along x.

#ifndef MAX_LEVELS
#define MAX_LEVELS 8
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define VECTOR_ATOMICS
#endif

namespace mask2kan {

constexpr int kLanes = 32;                   // threads of a warp
constexpr int kWarps = 4;                    // warps of a block
constexpr int kStagedPoints = 256;           // of a warp, in shared memory
constexpr unsigned kWholeWarp = 0xffffffff;  // of its threads, as a mask

// Sizes, by value into every kernel; spatial_shapes and where each level starts among S.
struct Level {
  int height;
  int width;
  int start;
};

struct Sizes {
  int positions;  // S
  int queries;    // Q
  int heads;      // M
  int levels;     // L
  int points;     // P
  Level level[MAX_LEVELS];
};

// ---- Half precision, as bits -------------------------------------------------------------------

struct Half {
  unsigned short bits;
};

struct BFloat16 {
  unsigned short bits;
};

__device__ inline float widen(float value) { return value; }

__device__ inline float widen(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

__device__ inline float widen(Half value) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  return half_bits_to_float(value.bits);
#endif
}

__device__ inline void narrow(float wide, float& value) { value = wide; }

// To the nearest, ties to even; a NaN stays one.
__device__ inline void narrow(float wide, BFloat16& value) {
  const unsigned bits = __float_as_uint(wide);
  const unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  value.bits = static_cast<unsigned short>(wide == wide ? rounded : 0x7fff);
}

__device__ inline void narrow(float wide, Half& value) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(wide));
#else
  value.bits = float_to_half_bits(wide);
#endif
}

// ---- How a warp divides the channels of its queries ---------------------------------------------

__device__ constexpr int power_of_two_from(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

template <typename T, int D>
struct Layout {
  static constexpr int vector = 16 / sizeof(T);              // channels of a thread
  static constexpr int slices = D / vector;                  // threads a query needs
  static constexpr int group = power_of_two_from(slices);    // threads a query gets
  static constexpr int queries = kLanes / group;             // queries of a warp
  static constexpr int most = kStagedPoints / queries;       // points of a query staged at a time
  static constexpr int chunk = most < 16 ? most : 16;
  static_assert(D % vector == 0 && slices <= kLanes, "a head is 16 bytes per thread");
};

// What one thread moves at a time: 16 bytes of channels.
template <typename T>
struct alignas(16) Slice {
  T channel[16 / sizeof(T)];
};

template <typename T>
__device__ inline Slice<T> zeros() {
  Slice<T> slice;
#pragma unroll
  for (int c = 0; c < Layout<T, 64>::vector; ++c) narrow(0.f, slice.channel[c]);
  return slice;
}

template <typename T>
__device__ inline Slice<T> load(const T* address) {
  return *reinterpret_cast<const Slice<T>*>(address);
}

// ---- Where a point lies --------------------------------------------------------------------------

// Which of the four pixels around a point exist.
enum Corner : unsigned { kUpperLeft = 1, kUpperRight = 2, kLowerLeft = 4, kLowerRight = 8 };

struct alignas(16) Point {
  int row;            // of the upper left pixel among S; only meaningful where a corner exists
  int width;          // rows from a pixel to the one below it
  unsigned corners;   // those that exist
  float attention;
  float x;            // right of the upper left pixel's centre, 0 to 1
  float y;            // below it
};

// In pixels a location is location * size - 0.5. The fraction comes from the location itself, not
// from the difference of two large numbers: float32 pixels of a map 256 wide have steps of 1e-5.
// Outside the map (infinity included) no corner exists, and the point reads zero; a NaN location
// makes the attention weight NaN, and with it the sum.
__device__ inline Point locate(float2 location, float attention, const Level& level) {
  const float width = static_cast<float>(level.width);
  const float height = static_cast<float>(level.height);
  const float column = fmaf(location.x, width, -0.5f);
  const float line = fmaf(location.y, height, -0.5f);
  Point point{0, level.width, 0, attention, 0.f, 0.f};
  if (column > -1.f && line > -1.f && column < width && line < height) {
    const float left = floorf(column);
    const float upper = floorf(line);
    point.x = fmaf(location.x, width, -0.5f - left);
    point.y = fmaf(location.y, height, -0.5f - upper);
    const int first_column = static_cast<int>(left);
    const int first_line = static_cast<int>(upper);
    point.row = level.start + first_line * level.width + first_column;
    const unsigned in_left = first_column >= 0 ? kUpperLeft | kLowerLeft : 0;
    const unsigned in_right = first_column + 1 < level.width ? kUpperRight | kLowerRight : 0;
    const unsigned in_upper = first_line >= 0 ? kUpperLeft | kUpperRight : 0;
    const unsigned in_lower = first_line + 1 < level.height ? kLowerLeft | kLowerRight : 0;
    point.corners = (in_left | in_right) & (in_upper | in_lower);
  } else if (column != column || line != line) {
    point.attention = column + line;
  }
  return point;
}

// Bilinear weights times the attention weight.
struct Weights {
  float upper_left, upper_right, lower_left, lower_right;
};

__device__ inline Weights corner_weights(const Point& point) {
  const float lower = point.attention * point.y;
  const float upper = point.attention - lower;
  const float upper_right = upper * point.x;
  const float lower_right = lower * point.x;
  return {upper - upper_right, upper_right, lower - lower_right, lower_right};
}

// A thread's slice of the four pixels around a point; zeros where there is no pixel.
template <typename T>
struct Corners {
  Slice<T> upper_left, upper_right, lower_left, lower_right;
};

// `map` is the thread's slice of position 0; `stride` leads from a position to the next. Offsets
// are 64 bits wide: an image may have more than 2^31 numbers.
template <typename T>
__device__ inline Corners<T> gather(const T* map, long long stride, const Point& point) {
  const T* upper = map + point.row * stride;
  const T* lower = upper + point.width * stride;
  Corners<T> found{zeros<T>(), zeros<T>(), zeros<T>(), zeros<T>()};
  if (point.corners & kUpperLeft) found.upper_left = load(upper);
  if (point.corners & kUpperRight) found.upper_right = load(upper + stride);
  if (point.corners & kLowerLeft) found.lower_left = load(lower);
  if (point.corners & kLowerRight) found.lower_right = load(lower + stride);
  return found;
}

// ---- Where a thread stands ------------------------------------------------------------------------

template <typename T, int D>
struct Place {
  int lane, warp;
  int member;       // of the group
  int group;        // of the warp: which of its queries
  int head;
  int first_query;  // of the warp
  long long image;
  bool idle;        // the whole warp has no query

  // Blocks of the same queries and other heads follow one another: they read the same locations.
  __device__ explicit Place(const Sizes& sizes) {
    using L = Layout<T, D>;
    constexpr int block_queries = kWarps * L::queries;
    const int tiles = (sizes.queries + block_queries - 1) / block_queries;
    lane = threadIdx.x % kLanes;
    warp = threadIdx.x / kLanes;
    member = lane % L::group;
    group = lane / L::group;
    head = blockIdx.x % sizes.heads;
    const unsigned rest = blockIdx.x / sizes.heads;
    first_query = static_cast<int>(rest % tiles) * block_queries + warp * L::queries;
    image = rest / tiles;
    idle = first_query >= sizes.queries;
  }

  __device__ int query() const { return first_query + group; }
  __device__ bool has_query(const Sizes& sizes) const { return query() < sizes.queries; }
  // Groups are rounded up to a power of two: some threads may have no channels.
  __device__ bool has_slice() const { return member < Layout<T, D>::slices; }

  // The row of an (image, query) and this head in (B, Q, M, ...) tensors.
  __device__ long long row(const Sizes& sizes, int query) const {
    return (image * sizes.queries + query) * sizes.heads + head;
  }
  // The thread's slice of position 0 in a (B, S, M, D) tensor.
  __device__ long long map_offset(const Sizes& sizes) const {
    return (image * sizes.positions * sizes.heads + head) * D + member * Layout<T, D>::vector;
  }
};

// A warp's points, `chunk` of each query at a time.
template <typename T, int D>
using Staged = Point[Layout<T, D>::queries][Layout<T, D>::chunk];

// Visit `count` samples of every query of the warp, from `begin` on, one per thread:
// visit(staged point, row of the query and head, sample, has the query).
template <typename T, int D, typename Visit>
__device__ inline void each_staged(const Place<T, D>& place, const Sizes& sizes,
                                   Staged<T, D>& staged, int begin, int count, Visit visit) {
  for (int i = place.lane; i < Layout<T, D>::queries * count; i += kLanes) {
    const int group = i / count;
    const int k = i - group * count;
    const int query = place.first_query + group;
    const bool exists = query < sizes.queries;
    visit(staged[group][k], place.row(sizes, query), begin + k, exists);
  }
}

template <typename T, int D>
__device__ inline void stage(const Place<T, D>& place, const Sizes& sizes, Staged<T, D>& staged,
                             const float2* locations, const float* weights, int begin, int count) {
  const int samples = sizes.levels * sizes.points;
  each_staged<T, D>(place, sizes, staged, begin, count,
                    [&](Point& point, long long row, int sample, bool exists) {
                      if (!exists) {
                        point = Point{0, 0, 0, 0.f, 0.f, 0.f};
                        return;
                      }
                      const long long at = row * samples + sample;
                      point = locate(locations[at], weights[at], sizes.level[sample / sizes.points]);
                    });
}

// ---- Forward ---------------------------------------------------------------------------------------

// value (B, S, M, D), locations (B, Q, M, L, P) pairs, weights (B, Q, M, L, P), output (B, Q, M, D).
template <typename T, int D>
__device__ inline void forward(const T* __restrict__ value, const float2* __restrict__ locations,
                               const float* __restrict__ weights, T* __restrict__ output,
                               const Sizes& sizes) {
  using L = Layout<T, D>;
  __shared__ Staged<T, D> all_staged[kWarps];
  const Place<T, D> place(sizes);
  if (place.idle) return;
  Staged<T, D>& staged = all_staged[place.warp];
  const T* map = value + place.map_offset(sizes);
  const long long stride = static_cast<long long>(sizes.heads) * D;
  const int samples = sizes.levels * sizes.points;

  float sum[L::vector] = {};
  for (int begin = 0; begin < samples; begin += L::chunk) {
    const int count = min(L::chunk, samples - begin);
    stage<T, D>(place, sizes, staged, locations, weights, begin, count);
    __syncwarp();
    if (place.has_slice()) {
#pragma unroll 2
      for (int k = 0; k < count; ++k) {
        const Point point = staged[place.group][k];
        const Corners<T> corners = gather(map, stride, point);
        const Weights weight = corner_weights(point);
#pragma unroll
        for (int c = 0; c < L::vector; ++c) {
          sum[c] = fmaf(weight.upper_left, widen(corners.upper_left.channel[c]), sum[c]);
          sum[c] = fmaf(weight.upper_right, widen(corners.upper_right.channel[c]), sum[c]);
          sum[c] = fmaf(weight.lower_left, widen(corners.lower_left.channel[c]), sum[c]);
          sum[c] = fmaf(weight.lower_right, widen(corners.lower_right.channel[c]), sum[c]);
        }
      }
    }
    __syncwarp();
  }
  if (place.has_slice() && place.has_query(sizes)) {
    Slice<T> result;
#pragma unroll
    for (int c = 0; c < L::vector; ++c) narrow(sum[c], result.channel[c]);
    T* address = output + place.row(sizes, place.query()) * D + place.member * L::vector;
    *reinterpret_cast<Slice<T>*>(address) = result;
  }
}

// ---- Backward --------------------------------------------------------------------------------------

__device__ inline void add(float* address, float weight, const float4& amount) {
  const float4 part = make_float4(weight * amount.x, weight * amount.y, weight * amount.z,
                                  weight * amount.w);
#ifdef VECTOR_ATOMICS
  atomicAdd(reinterpret_cast<float4*>(address), part);
#else
  atomicAdd(address, part.x);
  atomicAdd(address + 1, part.y);
  atomicAdd(address + 2, part.z);
  atomicAdd(address + 3, part.w);
#endif
}

template <int Group>
__device__ inline float sum_over_group(float value) {
#pragma unroll
  for (int step = 1; step < Group; step *= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// The gradient of the output that a thread spreads over value's: four channels in one addition and,
// so that a group's additions lie side by side, in another order than the slices it loads.
template <typename T, int D>
struct Spread {
  static constexpr int quads = Layout<T, D>::vector / 4;
  float4 amount[quads];
  bool exists[quads];
  int channel[quads];

  __device__ Spread(const T* grad_row, int member, bool has_query) {
#pragma unroll
    for (int i = 0; i < quads; ++i) {
      channel[i] = 4 * (member + i * Layout<T, D>::group);
      exists[i] = has_query && channel[i] < D;
      amount[i] = make_float4(0.f, 0.f, 0.f, 0.f);
      if (exists[i]) {
        const T* four = grad_row + channel[i];
        amount[i] = make_float4(widen(four[0]), widen(four[1]), widen(four[2]), widen(four[3]));
      }
    }
  }

  // `map` is channel 0 of position 0 in the gradient of value.
  __device__ void over(float* map, long long stride, const Point& point) const {
    const Weights weight = corner_weights(point);
    float* upper = map + point.row * stride;
    float* lower = upper + point.width * stride;
#pragma unroll
    for (int i = 0; i < quads; ++i) {
      if (!exists[i]) continue;
      float* at = upper + channel[i];
      float* below = lower + channel[i];
      if (point.corners & kUpperLeft) add(at, weight.upper_left, amount[i]);
      if (point.corners & kUpperRight) add(at + stride, weight.upper_right, amount[i]);
      if (point.corners & kLowerLeft) add(below, weight.lower_left, amount[i]);
      if (point.corners & kLowerRight) add(below + stride, weight.lower_right, amount[i]);
    }
  }
};

// grad_output (B, Q, M, D); grad_value (B, S, M, D) float32, zeros before; grad_locations and
// grad_weights like locations and weights.
template <typename T, int D>
__device__ inline void backward(const T* __restrict__ value, const float2* __restrict__ locations,
                                const float* __restrict__ weights,
                                const T* __restrict__ grad_output, float* __restrict__ grad_value,
                                float2* __restrict__ grad_locations,
                                float* __restrict__ grad_weights, const Sizes& sizes) {
  using L = Layout<T, D>;
  __shared__ Staged<T, D> all_staged[kWarps];
  const Place<T, D> place(sizes);
  if (place.idle) return;
  Staged<T, D>& staged = all_staged[place.warp];
  const long long stride = static_cast<long long>(sizes.heads) * D;
  const int samples = sizes.levels * sizes.points;
  const bool works = place.has_slice() && place.has_query(sizes);

  const T* map = value + place.map_offset(sizes);
  float* grad_map = grad_value + (place.image * sizes.positions * sizes.heads + place.head) * D;
  const T* grad_row = grad_output + place.row(sizes, place.query()) * D;
  const Slice<T> grad = works ? load(grad_row + place.member * L::vector) : zeros<T>();
  const Spread<T, D> spread(grad_row, place.member, place.has_query(sizes));

  for (int begin = 0; begin < samples; begin += L::chunk) {
    const int count = min(L::chunk, samples - begin);
    stage<T, D>(place, sizes, staged, locations, weights, begin, count);
    __syncwarp();
    // Every thread takes part in the sums, with zeros where it has no channels.
    for (int k = 0; k < count; ++k) {
      const Point point = staged[place.group][k];
      float upper_left = 0.f, upper_right = 0.f, lower_left = 0.f, lower_right = 0.f;
      if (works) {
        const Corners<T> corners = gather(map, stride, point);
#pragma unroll
        for (int c = 0; c < L::vector; ++c) {
          const float share = widen(grad.channel[c]);
          upper_left = fmaf(share, widen(corners.upper_left.channel[c]), upper_left);
          upper_right = fmaf(share, widen(corners.upper_right.channel[c]), upper_right);
          lower_left = fmaf(share, widen(corners.lower_left.channel[c]), lower_left);
          lower_right = fmaf(share, widen(corners.lower_right.channel[c]), lower_right);
        }
      }
      spread.over(grad_map, stride, point);
      const float upper_step = upper_right - upper_left;
      const float lower_step = lower_right - lower_left;
      const float upper = fmaf(point.x, upper_step, upper_left);
      const float lower = fmaf(point.x, lower_step, lower_left);
      const float right = fmaf(point.y, lower_step - upper_step, upper_step);
      const float down = lower - upper;
      const float read = sum_over_group<L::group>(fmaf(point.y, down, upper));
      const float to_right = sum_over_group<L::group>(right);
      const float to_below = sum_over_group<L::group>(down);
      // All of the group have read the point; it makes room for its gradients.
      if (place.member == 0) {
        Point& result = staged[place.group][k];
        result.x = point.attention * to_right;
        result.y = point.attention * to_below;
        result.attention = read;
      }
    }
    __syncwarp();
    each_staged<T, D>(place, sizes, staged, begin, count,
                      [&](const Point& result, long long row, int sample, bool exists) {
                        if (!exists) return;
                        const long long at = row * samples + sample;
                        const Level& level = sizes.level[sample / sizes.points];
                        grad_locations[at] = make_float2(result.x * level.width,
                                                         result.y * level.height);
                        grad_weights[at] = result.attention;
                      });
    __syncwarp();
  }
}

}  // namespace mask2kan

// ---- What cuda.py launches: VALUE_TYPE and HEAD_SIZE are its choice ---------------------------------

#ifdef VALUE_TYPE

constexpr int kThreads = mask2kan::kWarps * mask2kan::kLanes;

extern "C" __global__ void __launch_bounds__(kThreads)
    ms_deform_attn_forward(const VALUE_TYPE* value, const float2* locations, const float* weights,
                           VALUE_TYPE* output, const __grid_constant__ mask2kan::Sizes sizes) {
  mask2kan::forward<VALUE_TYPE, HEAD_SIZE>(value, locations, weights, output, sizes);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    ms_deform_attn_backward(const VALUE_TYPE* value, const float2* locations, const float* weights,
                            const VALUE_TYPE* grad_output, float* grad_value,
                            float2* grad_locations, float* grad_weights,
                            const __grid_constant__ mask2kan::Sizes sizes) {
  mask2kan::backward<VALUE_TYPE, HEAD_SIZE>(value, locations, weights, grad_output, grad_value,
                                            grad_locations, grad_weights, sizes);
}

#endif
