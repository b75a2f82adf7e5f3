#pragma once

#include "lora/module_names.h"

namespace tessera::language {

/// What Hugging Face and PEFT call the modules of LlamaForCausalLM: as they are called here.
const lora::ModuleNames& llama_module_names();

}  // namespace tessera::language
