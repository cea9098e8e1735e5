// The attention kernels on a CPU, as a library or as a program.
//
// The library's `launch` stands for the driver's cuLaunchKernel: it takes the same array of pointers
// to arguments, so the code that packs them is tested too.
//
// The program, run_kernels CASES RESULTS, is for a build with the address sanitizer: every tensor has
// a block of memory of its own. A case is int32 numbers (value type 0 float32, 1 float16, 2 bfloat16;
// head size, blocks, bytes of Sizes), Sizes, and then, each as its number of bytes (int64) and its
// content, what `backward` takes and the output of `forward`. The results are the output and the
// three gradients. One case after another, to the end.

#include <cstdint>

#include "emulator.h"

#include "ms_deform_attn.cu"

using namespace mask2kan;

namespace {

template <typename T>
T argument(void** arguments, int index) {
  return *static_cast<T*>(arguments[index]);
}

template <typename T, int D>
void launch_kernel(bool backwards, unsigned blocks, void** arguments) {
  const T* value = argument<const T*>(arguments, 0);
  const float2* locations = argument<const float2*>(arguments, 1);
  const float* weights = argument<const float*>(arguments, 2);
  const int threads = kWarps * kLanes;
  if (backwards) {
    emulator::launch(blocks, threads, [&] {
      backward<T, D>(value, locations, weights, argument<const T*>(arguments, 3),
                     argument<float*>(arguments, 4), argument<float2*>(arguments, 5),
                     argument<float*>(arguments, 6), *static_cast<const Sizes*>(arguments[7]));
    });
  } else {
    emulator::launch(blocks, threads, [&] {
      forward<T, D>(value, locations, weights, argument<T*>(arguments, 3),
                    *static_cast<const Sizes*>(arguments[4]));
    });
  }
}

template <typename T>
void launch_for(int head_size, bool backwards, unsigned blocks, void** arguments) {
  switch (head_size) {
    case 8: return launch_kernel<T, 8>(backwards, blocks, arguments);
    case 16: return launch_kernel<T, 16>(backwards, blocks, arguments);
    case 24: return launch_kernel<T, 24>(backwards, blocks, arguments);
    case 32: return launch_kernel<T, 32>(backwards, blocks, arguments);
    case 40: return launch_kernel<T, 40>(backwards, blocks, arguments);
    case 48: return launch_kernel<T, 48>(backwards, blocks, arguments);
    case 56: return launch_kernel<T, 56>(backwards, blocks, arguments);
    case 64: return launch_kernel<T, 64>(backwards, blocks, arguments);
  }
  std::fprintf(stderr, "no kernel for heads of %d channels\n", head_size);
  std::exit(2);
}

}  // namespace

extern "C" void launch(int type, int head_size, int backwards, unsigned blocks, void** arguments) {
  switch (type) {
    case 0: return launch_for<float>(head_size, backwards, blocks, arguments);
    case 1: return launch_for<Half>(head_size, backwards, blocks, arguments);
    case 2: return launch_for<BFloat16>(head_size, backwards, blocks, arguments);
  }
}

namespace {

void read(std::FILE* file, void* target, std::size_t bytes) {
  if (std::fread(target, 1, bytes, file) != bytes) {
    std::fprintf(stderr, "the file of cases ends early\n");
    std::exit(2);
  }
}

}  // namespace

int main(int, char** names) {
  std::FILE* cases = std::fopen(names[1], "rb");
  std::FILE* results = std::fopen(names[2], "wb");
  std::int32_t header[4];
  while (std::fread(header, sizeof(header), 1, cases) == 1) {
    Sizes sizes;
    if (header[3] != sizeof(Sizes)) {
      std::fprintf(stderr, "Sizes has %zu bytes here, %d there\n", sizeof(Sizes), header[3]);
      return 2;
    }
    read(cases, &sizes, sizeof(Sizes));
    void* tensor[8];
    std::int64_t bytes[8];
    for (int i = 0; i < 8; ++i) {  // 7 is the output
      read(cases, &bytes[i], sizeof(bytes[i]));
      tensor[i] = std::malloc(bytes[i]);
      read(cases, tensor[i], bytes[i]);
    }
    void* forwards[5] = {&tensor[0], &tensor[1], &tensor[2], &tensor[7], &sizes};
    void* backwards[8] = {&tensor[0], &tensor[1], &tensor[2], &tensor[3],
                          &tensor[4], &tensor[5], &tensor[6], &sizes};
    launch(header[0], header[1], false, header[2], forwards);
    launch(header[0], header[1], true, header[2], backwards);
    for (int i : {7, 4, 5, 6}) std::fwrite(tensor[i], 1, bytes[i], results);
    for (void* block : tensor) std::free(block);
  }
  std::fclose(results);
}
