#include <ATen/ATen.h>

#include "core/error.h"
#include "memory/episodic_memory.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {

namespace {

const at::Tensor& weight(const GoldenCase& golden, const std::string& name) {
  const auto found = golden.weights.find(name);
  if (found == golden.weights.end()) fail("{}: w.{} is missing", golden.name, name);
  return found->second;
}

/// Undefined, and thus zero, where the case gives none.
at::Tensor noise(const GoldenCase& golden, const std::string& name) {
  const auto found = golden.inputs.find("noise_" + name);
  return found == golden.inputs.end() ? at::Tensor() : found->second;
}

GoldenResult memory_episode(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor prior_mean = weight(golden, "prior_mean");
  memory::EpisodicMemory model(memory::MemoryConfig{.slots = prior_mean.size(0),
                                                    .code_size = prior_mean.size(1),
                                                    .noise = golden.params.value("noise", 0.0)},
                               /*seed=*/0);
  model->eval();
  for (auto& item : model->named_parameters()) {
    const at::NoGradGuard no_grad;
    item.value().copy_(weight(golden, item.key()));
    result.leaves["w." + item.key()] = item.value();
  }
  const at::Tensor codes = leaf(golden, "codes", result);
  const at::Tensor queries = leaf(golden, "queries", result);
  const memory::EpisodeNoise given{.written = noise(golden, "written"),
                                   .written_addresses = noise(golden, "written_addresses"),
                                   .queries = noise(golden, "queries"),
                                   .addresses = noise(golden, "addresses"),
                                   .codes = noise(golden, "codes")};
  const bool without_own = golden.params.value("without_own", false);
  const auto ids = golden.inputs.find("image_ids");
  const at::Tensor image_ids = ids == golden.inputs.end() ? at::Tensor() : ids->second;
  const memory::EpisodeReading reading = without_own
                                             ? model->read_leave_one_out(codes, queries, image_ids, given)
                                             : model->read_episode(codes, queries, given);
  result.outputs = {{"read", reading.codes}, {"kl", reading.kl}, {"addresses", reading.addresses}};
  return result;
}

}  // namespace

void add_memory_ops(GoldenOps& ops) { ops["memory_episode"] = memory_episode; }

}  // namespace tessera::golden
