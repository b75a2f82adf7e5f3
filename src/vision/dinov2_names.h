#pragma once

#include "lora/module_names.h"

namespace tessera::vision {

/// What Hugging Face and PEFT call the modules of Dinov2Model and Dinov2WithRegistersModel.
const lora::ModuleNames& dinov2_module_names();

}  // namespace tessera::vision
