#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "core/safetensors.h"

namespace tessera::golden {

/// One golden case: a safetensors file (docs/golden-cases.md). Names are without their prefix: in.x is
/// inputs["x"].
struct GoldenCase {
  std::string name;  ///< the file's stem
  std::string op;
  nlohmann::json params;
  double rtol = 1e-4;
  double atol = 1e-5;
  TensorMap inputs;      ///< in.*; copies that may be written to
  TensorMap weights;     ///< w.*
  TensorMap adapter;     ///< adapter.*
  TensorMap outputs;     ///< out.*
  TensorMap cotangents;  ///< cotangent.*
  TensorMap gradients;   ///< grad.FULLNAME, by full name: "in.x", "w.KEY", "adapter.KEY"
};

/// @throws Error naming the file where it is no golden case
GoldenCase read_golden_case(const std::filesystem::path& path);

/// What an op computed. Every expected output must be among the outputs. `leaves` maps full names ("in.x",
/// "w.KEY", "adapter.KEY") to the tensors, requiring gradients, whose gradient the case may ask for.
struct GoldenResult {
  TensorMap outputs;
  TensorMap leaves;
};

/// in.NAME of a case. @throws Error where it has none
const at::Tensor& input(const GoldenCase& golden, const std::string& name);
/// The same as a leaf of the result, requiring a gradient.
at::Tensor leaf(const GoldenCase& golden, const std::string& name, GoldenResult& result);

/// An op is a short adapter from a case to the code that training uses.
using GoldenOp = std::function<GoldenResult(const GoldenCase&)>;
using GoldenOps = std::map<std::string, GoldenOp>;

void add_vision_ops(GoldenOps& ops);    // dinov2, dinov2_lora, compressor
void add_language_ops(GoldenOps& ops);  // causal_lm, causal_lm_lora
void add_eval_ops(GoldenOps& ops);      // caption_scores
void add_loss_ops(GoldenOps& ops);      // itc, itm_weights, maxsim, maxsim_loss
void add_memory_ops(GoldenOps& ops);    // memory_episode
void add_fusion_ops(GoldenOps& ops);    // gated_cross_attention, fusion_level
void add_image_ops(GoldenOps& ops);     // image_processor, image_file

}  // namespace tessera::golden
