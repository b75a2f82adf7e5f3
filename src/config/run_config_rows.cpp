#include "config/run_config.h"

#include "core/config_rows.h"

namespace tessera {

ConfigRows config_rows(RunConfig& run) {
  using namespace config_kinds;
  return rows(
      "The run as a whole",
      {TESSERA_KEY(text, run.name, TextKind::kName,
                   "Names the run's folders, OUTPUT_DIR/NAME and LOG_DIR/NAME"),
       TESSERA_KEY(
           text, run.output_dir, TextKind::kFolder,
           "Holds the run folders (checkpoints, metrics, resolved config); relative to the working folder"),
       TESSERA_KEY(text, run.log_dir, TextKind::kFolder,
                   "Gets NAME/training.log, a copy of the run folder's log; relative to the working folder"),
       TESSERA_KEY(integer, run.seed, {0, kUnbounded},
                   "Decides everything that is drawn: initial weights, shuffling, captions, augmentation"),
       TESSERA_KEY(
           words<DeviceChoice>, run.device,
           {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
           "Where to compute; auto takes a GPU where this build and machine have one"),
       TESSERA_KEY(
           words<PrecisionChoice>, run.precision,
           {{"auto", PrecisionChoice::kAuto},
            {"fp32", PrecisionChoice::kFp32},
            {"bf16", PrecisionChoice::kBf16}},
           "Of matrix products; parameters stay fp32. auto: bf16 on a GPU that computes in it, else fp32"),
       TESSERA_KEY(
           integer, run.threads, {0, 4096},
           "CPU threads of one operation; 0: as many as the machine or a control group's quota gives"),
       TESSERA_KEY(integer, run.log_every, {1, kUnbounded}, "Steps between two logged lines of metrics")});
}

}  // namespace tessera
