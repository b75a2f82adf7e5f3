#include "vision/dinov2_names.h"

namespace tessera::vision {

const lora::ModuleNames& dinov2_module_names() {
  static const lora::ModuleNames names = {.architecture = "DINOv2",
                                          .aliases = {{"attention.attention.query", "attention.q_proj"},
                                                      {"attention.attention.key", "attention.k_proj"},
                                                      {"attention.attention.value", "attention.v_proj"},
                                                      {"attention.output.dense", "attention.o_proj"},
                                                      {"mlp.weights_out", "mlp.down_proj"}},
                                          .joined = {{"mlp.weights_in", {"mlp.gate_proj", "mlp.up_proj"}}},
                                          .wrapper_prefixes = {"dinov2.", "dinov2_with_registers."},
                                          .backbone = {"embeddings.", "encoder.", "layernorm."}};
  return names;
}

}  // namespace tessera::vision
