#include "train/checkpoint.h"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>

#include "core/archive.h"
#include "core/error.h"

namespace tessera::train {

namespace {

constexpr const char* kOptimizerKind = "tessera-optimizer";
constexpr const char* kStateKind = "tessera-state";
constexpr int kFormat = 1;

at::Tensor generator_state(c10::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_generator_state(c10::Device device, const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

}  // namespace

void write_checkpoint(const std::filesystem::path& folder, const Task& task, const AdamW& optimizer,
                      const Position& position, c10::Device device) {
  task.save(folder);

  Archive moments;
  optimizer.save(moments);
  moments.write(folder / "optimizer", kOptimizerKind);

  Archive state;
  state.json()["format"] = kFormat;
  state.json()["position"] = {{"epoch", position.epoch},
                              {"next_batch", position.next_batch},
                              {"step", position.step},
                              {"schedule_step", position.schedule_step},
                              {"phase", static_cast<int>(position.phase)}};
  state.json()["data"] = {{"samples", position.data.samples}, {"keys", position.data.keys}};
  if (position.best_metric) state.json()["position"]["best_metric"] = *position.best_metric;
  state.put("random.cpu", generator_state(c10::kCPU));
  if (!device.is_cpu()) state.put("random.device", generator_state(device));
  task.save_state(state);
  state.write(folder / "state", kStateKind);
}

Position read_position(const std::filesystem::path& folder) {
  const Archive state = Archive::read(folder / "state", kStateKind);
  const int format = state.json().value("format", 0);
  if (format != kFormat) {
    fail("{}: checkpoint format {} is not the one this build reads ({})", (folder / "state").string(), format,
         kFormat);
  }
  try {
    const nlohmann::json& json = state.json().at("position");
    Position position;
    position.epoch = json.at("epoch").get<std::int64_t>();
    position.next_batch = json.at("next_batch").get<std::int64_t>();
    position.step = json.at("step").get<std::int64_t>();
    position.schedule_step = json.value("schedule_step", position.step);
    position.phase = static_cast<Phase>(json.at("phase").get<int>());
    if (json.contains("best_metric")) position.best_metric = json.at("best_metric").get<double>();
    if (state.json().contains("data")) {
      const nlohmann::json& data = state.json().at("data");
      position.data = {data.at("samples").get<std::int64_t>(), data.at("keys").get<std::string>()};
    }
    return position;
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the run's position cannot be read: {}", (folder / "state").string(), error.what());
  }
}

void read_checkpoint(const std::filesystem::path& folder, Task& task, AdamW& optimizer, c10::Device device) {
  task.load(folder);
  const Archive moments = Archive::read(folder / "optimizer", kOptimizerKind);
  std::size_t parameters = 0;
  for (const ParameterGroup& group : optimizer.groups()) parameters += group.names.size();
  const std::size_t taken = optimizer.load(moments);
  if (taken != parameters) {
    fail("{}: holds the state of {} of the {} parameters that train; the configuration has changed since",
         (folder / "optimizer").string(), taken, parameters);
  }
  const Archive state = Archive::read(folder / "state", kStateKind);
  task.load_state(state);
  set_generator_state(c10::kCPU, state.get("random.cpu"));
  if (!device.is_cpu()) {
    if (!state.contains("random.device")) {
      fail("{}: was written on the CPU; a run continues on the kind of device that it began on",
           (folder / "state").string());
    }
    set_generator_state(device, state.get("random.device"));
  }
}

}  // namespace tessera::train
