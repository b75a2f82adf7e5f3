// vision_bench: how long a DINOv2 encoder takes forward and in a LoRA training step.

#include <ATen/ATen.h>
#include <sys/resource.h>
#include <torch/csrc/autograd/autograd.h>

#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "command_line.h"
#include "core/autocast.h"
#include "core/device.h"
#include "core/error.h"
#include "core/safetensors.h"
#include "lora/adapter_set.h"
#include "vision/encoder_families.h"

namespace tessera::bench {

namespace options = boost::program_options;

namespace {

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

/// The works that both programs know: a model folder with its adapter, pixels, and a cotangent of the
/// features.
class Encoder {
 public:
  Encoder(const std::string& folder, Compute compute)
      : compute_(compute),
        model_(vision::load_encoder(folder + "/model")),
        adapters_(*model_),
        inputs_(SafetensorsFile(folder + "/inputs.safetensors").tensors()) {
    adapters_.load("adapter", folder + "/adapter");
    for (at::Tensor& parameter : model_->parameters()) parameter.set_requires_grad(false);
    model_->eval();
  }

  /// "plain", "merged", "adapted": forward without gradients; "lora_step": forward, backward and an update;
  /// "checkpointed_step": the same with activation checkpointing.
  double run(const std::string& work) {
    prepare(work);
    const auto start = std::chrono::steady_clock::now();
    if (is_step(work)) {
      train();
    } else {
      const at::NoGradGuard no_grad;
      features();
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  /// What `run` computes, for the comparison: features, or the gradients of the adapter.
  TensorMap results(const std::string& work) {
    prepare(work);
    if (!is_step(work)) {
      const at::NoGradGuard no_grad;
      return {{"features", features()}};
    }
    backward();
    TensorMap gradients;
    for (const auto& [name, parameter] :
         lora::adapter_tensors(*model_, adapters_.options("adapter"), lora::ModuleNaming::kCurrent))
      gradients[name] = parameter.grad().clone();
    return gradients;
  }

  std::int64_t batch() const { return inputs_.at("pixel_values").size(0); }

 private:
  static bool is_step(const std::string& work) { return work == "lora_step" || work == "checkpointed_step"; }
  void prepare(const std::string& work) {
    if (work == prepared_) return;
    if (adapters_.is_merged()) adapters_.unmerge();
    adapters_.use(work == "plain" ? "" : "adapter");
    if (work == "merged") adapters_.merge();
    model_->train(is_step(work));
    model_->set_gradient_checkpointing(work == "checkpointed_step");
    if (work != "plain") lora::set_lora_trainable(*model_, adapters_.options("adapter"), is_step(work));
    prepared_ = work;
  }
  at::Tensor features() {
    const AutocastScope autocast(compute_);
    return model_->forward(inputs_.at("pixel_values")).to(at::kFloat);
  }
  void backward() {
    for (auto& [name, parameter] : lora::lora_parameters(*model_)) parameter.mutable_grad() = at::Tensor();
    (features() * inputs_.at("cotangent")).sum().backward();
  }
  /// Plain gradient descent: an optimizer of 0.6 M parameters is no part of what is compared.
  void train() {
    backward();
    const at::NoGradGuard no_grad;
    for (auto& [name, parameter] : lora::lora_parameters(*model_)) parameter.add_(parameter.grad(), -1e-9);
  }

  Compute compute_;
  std::shared_ptr<vision::VisionEncoder> model_;
  lora::AdapterSet adapters_;
  TensorMap inputs_;
  std::string prepared_ = "nothing yet";
};

/// Answers "run WORK TIMES" and "save WORK FILE" until "quit", a line of JSON each.
int serve(Encoder& encoder) {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, work, rest;
    words >> command >> work >> rest;
    if (command == "quit") break;
    if (command == "save") {
      write_safetensors(rest, encoder.results(work));
      std::cout << "{}" << std::endl;
    } else if (command == "run") {
      const std::int64_t times = std::stoll(rest);
      double seconds = 0;
      for (std::int64_t i = 0; i < times; ++i) seconds += encoder.run(work);
      const double images = static_cast<double>(times) * static_cast<double>(encoder.batch());
      std::cout << nlohmann::json{{"images", images}, {"seconds", seconds}, {"peak_mib", peak_mib()}}.dump()
                << std::endl;
    } else {
      fail("serve: expected 'run WORK TIMES', 'save WORK FILE' or 'quit', found '{}'", line);
    }
  }
  return apps::kDone;
}

int body(int argc, char** argv) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("folder", options::value<std::string>()->required(),
       "folder with model/, adapter/ and inputs.safetensors (bench/peers/compare_vision.py writes it)")
      ("precision", options::value<std::string>()->default_value("fp32"), "fp32 or bf16");
  // clang-format on
  const auto values = apps::parse_options(
      "Runs a DINOv2 encoder on demand: commands come from standard input, answers go out as JSON.\n\n"
      "Usage: vision_bench FOLDER [--precision fp32|bf16]\n",
      description, {argv + 1, argv + argc}, options::positional_options_description().add("folder", 1));
  if (!values) return apps::kDone;
  const std::string precision = (*values)["precision"].as<std::string>();
  if (precision != "fp32" && precision != "bf16")
    throw ConfigError("--precision: expected fp32 or bf16, found " + precision);
  Encoder encoder((*values)["folder"].as<std::string>(),
                  {c10::kCPU, precision == "bf16" ? c10::kBFloat16 : c10::kFloat});
  return serve(encoder);
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  return tessera::apps::run_program("vision_bench", [&] { return tessera::bench::body(argc, argv); });
}
