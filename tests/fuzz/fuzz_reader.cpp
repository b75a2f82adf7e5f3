// libFuzzer's entry for one reader (CMake option TESSERA_FUZZ, clang): fuzz_safetensors, fuzz_pytorch_file,
// fuzz_adapter_config, fuzz_image_header, fuzz_tar, fuzz_caption_table. TESSERA_FUZZED names the function of
// tests/fuzz/readers.h.
#include <cstdint>

#include "tests/core/temporary_folder.h"
#include "tests/fuzz/readers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const tessera::TemporaryFolder folder;
  tessera::TESSERA_FUZZED({reinterpret_cast<const char*>(data), size}, folder.path() / "input");
  return 0;
}
