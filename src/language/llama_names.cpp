#include "language/llama_names.h"

namespace tessera::language {

const lora::ModuleNames& llama_module_names() {
  static const lora::ModuleNames names = {
      .architecture = "Llama", .backbone = {"model.", "lm_head."}, .output_heads = {"lm_head"}};
  return names;
}

}  // namespace tessera::language
