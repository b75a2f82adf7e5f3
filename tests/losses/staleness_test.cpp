#include "losses/staleness.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "core/archive.h"
#include "core/error.h"
#include "losses/itc_queue.h"
#include "tests/core/error_of.h"

namespace tessera::losses {
namespace {

constexpr double kTemperature = 0.1;

at::Tensor tau() { return at::scalar_tensor(kTemperature); }

/// Six pairs whose texts all move along one direction that every image has a component of 1 in: text scores
/// fall behind by exactly `speed` nats an update. Images stand still.
class DriftingEncoder {
 public:
  DriftingEncoder() {
    at::manual_seed(5);
    image_ = at::randn({6, 8});
    image_.select(1, 0).fill_(1);
    text_ = at::randn({6, 8});
  }

  void move(double nats) { position_ += nats * kTemperature; }

  std::pair<at::Tensor, at::Tensor> encode() {
    ++calls;
    at::Tensor text = text_.clone();
    text.select(1, 0).add_(position_);
    return {image_, text};
  }

  int calls = 0;

 private:
  at::Tensor image_, text_;
  double position_ = 0;
};

StalenessOptions options() {
  return {.queue = {.size = 400, .max_shift = 0.5, .probe_every = 5}, .global_batch = 10};  // lifetime 40
}

/// Updates and probes from step `first` to `last`, the encoder moving by `speed` nats an update.
void train(StalenessProbe& probe, DriftingEncoder& encoder, std::int64_t first, std::int64_t last,
           double speed) {
  for (std::int64_t step = first; step <= last; ++step) {
    probe.update(step, tau());
    encoder.move(speed);
  }
}

TEST(ShiftByAge, EqualsLoopsOverPairsOfDifferentImages) {
  at::manual_seed(1);
  const at::Tensor image = at::randn({4, 3}), text = at::randn({4, 3});
  const at::Tensor image_then = at::randn({2, 4, 3}), text_then = at::randn({2, 4, 3});
  const auto shifts = shift_by_age(image, text, image_then, text_then, {7, 9}, tau());
  ASSERT_EQ(shifts.size(), 2u);
  const auto moments = [](const at::Tensor& query, const at::Tensor& now, const at::Tensor& then) {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < 4; ++i) {
      for (std::int64_t j = 0; j < 4; ++j) {
        if (i != j) {
          const double shift = query[i].dot(then[j]).item<double>() - query[i].dot(now[j]).item<double>();
          sum += shift / kTemperature;
          squares += shift * shift / (kTemperature * kTemperature);
        }
      }
    }
    return std::pair(sum / 12, std::sqrt(squares / 12));
  };
  for (std::int64_t a = 0; a < 2; ++a) {
    const AgeShift& shift = shifts[static_cast<std::size_t>(a)];
    const auto [mean_i2t, rms_i2t] = moments(image, text, text_then[a]);
    const auto [mean_t2i, rms_t2i] = moments(text, image, image_then[a]);
    EXPECT_NEAR(shift.mean_i2t, mean_i2t, 1e-4);
    EXPECT_NEAR(shift.rms_i2t, rms_i2t, 1e-4);
    EXPECT_NEAR(shift.mean_t2i, mean_t2i, 1e-4);
    EXPECT_NEAR(shift.rms_t2i, rms_t2i, 1e-4);
  }
  EXPECT_EQ(shifts[0].age, 7);
}

TEST(ShiftByAge, MatchingPairsThatDrawTogetherAreNoStaleness) {
  // Image i and text i are along axis i: a text that moves along its own axis changes its own pair's score
  // alone.
  const at::Tensor image = at::eye(4), text_then = at::eye(4).unsqueeze(0), text_now = at::eye(4) * 3;
  const auto shifts = shift_by_age(image, text_now, image.unsqueeze(0), text_then, {1}, tau());
  EXPECT_EQ(shifts[0], (AgeShift{.age = 1}));
}

TEST(StalenessProbe, AllowsEverythingWhereFeaturesStandStill) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  train(probe, encoder, 0, 100, 0);
  EXPECT_GE(probe.allowed_age_on_host(), probe.queue_lifetime());
  EXPECT_FALSE(probe.shifts().empty());
  for (const AgeShift& shift : probe.shifts()) {
    EXPECT_EQ(shift, AgeShift{.age = shift.age});
  }
  EXPECT_EQ(probe.metrics()["queue_age_allowed"], 40);
}

TEST(StalenessProbe, MasksAgesBeyondTheDrift) {
  for (const double speed : {0.03, 0.018, 0.011, 1.0}) {
    DriftingEncoder encoder;
    StalenessProbe probe(options(), [&] { return encoder.encode(); });
    train(probe, encoder, 0, 100, speed);
    // Opens up to the last probed age, a multiple of 5, within 0.8 of the limit.
    const auto expected = static_cast<std::int64_t>(0.8 * 0.5 / speed / 5) * 5;
    EXPECT_EQ(probe.allowed_age_on_host(), expected) << "speed " << speed;
    EXPECT_EQ(probe.allowed_age().item<std::int64_t>(), expected);
    EXPECT_NEAR(probe.shifts().front().mean_i2t, -5 * speed, 1e-4);
    EXPECT_NEAR(probe.shifts().front().rms_i2t, 5 * speed, 1e-4);
    EXPECT_NEAR(probe.shifts().front().mean_t2i, 0, 1e-12);
  }
}

TEST(StalenessProbe, MasksTheQueueBySteps) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  ItcQueue queue(400, 8, at::kCPU);
  for (std::int64_t step = 0; step <= 60; ++step) {
    probe.update(step, tau());
    encoder.move(0.018);  // 20 updates are 0.36 nats, 25 are 0.45
    queue.enqueue(at::randn({10, 8}), at::randn({10, 8}), at::arange(10), step);
  }
  EXPECT_EQ(probe.allowed_age_on_host(), 20);
  EXPECT_NEAR(queue.view(61, probe.allowed_age()).share_in_use().item<double>(), 20 * 10 / 400.0, 1e-6);
}

TEST(StalenessProbe, AllowsNothingBeforeItHasMeasured) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  EXPECT_EQ(probe.allowed_age_on_host(), 0);
  train(probe, encoder, 0, 4, 0);
  EXPECT_EQ(probe.allowed_age_on_host(), 0);
  train(probe, encoder, 5, 5, 0);
  EXPECT_EQ(probe.allowed_age_on_host(), 5) << "an age that was not measured is not allowed";
}

TEST(StalenessProbe, OneStaleAgeMasksAllAboveIt) {
  // A jump at step 50 and then standing still: ages that span the jump are stale, and it passes out of the
  // history.
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  train(probe, encoder, 0, 49, 0);
  EXPECT_GE(probe.allowed_age_on_host(), 40);
  encoder.move(5);
  train(probe, encoder, 50, 50, 0);
  EXPECT_EQ(probe.allowed_age_on_host(), 0) << "the probe works also while the queue is shut";
  train(probe, encoder, 51, 65, 0);
  EXPECT_EQ(probe.allowed_age_on_host(), 15);
  train(probe, encoder, 66, 100, 0);
  EXPECT_GE(probe.allowed_age_on_host(), 40);
}

TEST(StalenessProbe, ShutsAtTheLimitAndOpensBelowIt) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  // 20 updates are 0.36 nats: under 0.8 × 0.5.
  train(probe, encoder, 0, 60, 0.018);
  ASSERT_EQ(probe.allowed_age_on_host(), 20);
  // 20 updates are 0.46: between the two limits; what was open stays open,
  train(probe, encoder, 61, 120, 0.023);
  EXPECT_EQ(probe.allowed_age_on_host(), 20);
  // and what was shut stays shut.
  DriftingEncoder other_encoder;
  StalenessProbe other(options(), [&] { return other_encoder.encode(); });
  train(other, other_encoder, 0, 120, 0.023);
  EXPECT_EQ(other.allowed_age_on_host(), 15);
  // 20 updates are 0.54: over the limit; 15 are 0.405, between the limits, and were open.
  train(probe, encoder, 121, 180, 0.027);
  EXPECT_EQ(probe.allowed_age_on_host(), 15);
}

TEST(StalenessProbe, SwitchedOffAllowsEverythingAndStillMeasures) {
  StalenessOptions off = options();
  off.queue.max_shift = 0;
  DriftingEncoder encoder;
  StalenessProbe probe(off, [&] { return encoder.encode(); });
  ItcQueue queue(20, 8, at::kCPU);
  queue.enqueue(at::randn({20, 8}), at::randn({20, 8}), at::arange(20), 0);
  EXPECT_EQ(queue.view(1000, probe.allowed_age()).share_in_use().item<double>(), 1);
  train(probe, encoder, 0, 20, 1);
  EXPECT_EQ(queue.view(1000, probe.allowed_age()).share_in_use().item<double>(), 1);
  EXPECT_NEAR(probe.metrics()["queue_shift_by_age"][0]["mean_i2t"].get<double>(), -5, 1e-3);
}

TEST(StalenessProbe, ShutsOnWhatIsNoNumber) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  train(probe, encoder, 0, 49, 0);
  ASSERT_GT(probe.allowed_age_on_host(), 0);
  encoder.move(std::nan(""));
  train(probe, encoder, 50, 50, 0);
  EXPECT_EQ(probe.allowed_age_on_host(), 0);
}

TEST(StalenessProbe, ProbesOftenEnoughForShortQueuesAndNotMoreOftenThanTold) {
  StalenessOptions short_queue = options();
  short_queue.queue.probe_every = 25;
  short_queue.queue.size = 81;  // lifetime 9
  DriftingEncoder encoder;
  StalenessProbe probe(short_queue, [&] { return encoder.encode(); });
  EXPECT_EQ(probe.queue_lifetime(), 9);
  EXPECT_EQ(probe.interval(), 2);
  train(probe, encoder, 0, 40, 0.049);
  EXPECT_EQ(probe.allowed_age_on_host(), 8) << "0.392 nats after 8 updates, 0.49 after 10";
  EXPECT_LE(probe.shifts().size(), 5u) << "the history is as long as an entry's life";

  short_queue.queue.size = 4000;
  StalenessProbe long_queue(short_queue, [&] { return encoder.encode(); });
  EXPECT_EQ(long_queue.interval(), 25);
  encoder.calls = 0;
  train(long_queue, encoder, 0, 1000, 0);
  EXPECT_EQ(encoder.calls, 41);
  EXPECT_LE(long_queue.shifts().size(), 400u / 25);
  EXPECT_GE(long_queue.shifts().back().age, 400) << "the oldest entries of the queue are covered";
}

TEST(StalenessProbe, GoesOnFromAnArchiveBitForBit) {
  const auto path = std::filesystem::temp_directory_path() / "tessera_staleness_test.safetensors";
  DriftingEncoder encoder, restored_encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  StalenessProbe restored(options(), [&] { return restored_encoder.encode(); });
  train(probe, encoder, 0, 60, 0.018);
  train(probe, encoder, 61, 90, 0.023);
  restored_encoder = encoder;
  Archive archive;
  probe.save(archive);
  archive.write(path, "test");
  restored.load(Archive::read(path, "test"));
  std::filesystem::remove(path);
  EXPECT_EQ(restored.metrics().dump(), probe.metrics().dump());
  EXPECT_EQ(restored.due(94), probe.due(94));
  EXPECT_EQ(restored.due(95), probe.due(95));
  EXPECT_EQ(restored.allowed_age().item<std::int64_t>(), 20) << "held open by hysteresis, which is state";
  train(probe, encoder, 91, 110, 0.023);
  train(restored, restored_encoder, 91, 110, 0.023);
  EXPECT_EQ(restored.shifts(), probe.shifts());
  EXPECT_EQ(restored.allowed_age_on_host(), probe.allowed_age_on_host());
}

TEST(StalenessProbe, AFreshStateGoesThroughAnArchive) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  StalenessProbe restored(options(), [&] { return encoder.encode(); });
  Archive archive;
  probe.save(archive);
  restored.load(archive);
  EXPECT_TRUE(restored.due(0));
  EXPECT_EQ(restored.allowed_age_on_host(), 0);
}

TEST(StalenessProbe, RefusesDamagedStatesAndOtherPairs) {
  DriftingEncoder encoder;
  StalenessProbe probe(options(), [&] { return encoder.encode(); });
  Archive archive;
  EXPECT_EQ(error_of([&] { probe.load(archive); }), "archive: key 'itc_staleness.probes' is missing");
  train(probe, encoder, 0, 20, 0);
  probe.save(archive);
  Archive damaged = archive;
  damaged.put("itc_staleness.step", at::tensor({0, 5, 5, 15, 20}, at::kLong));
  EXPECT_EQ(error_of([&] { probe.load(damaged); }),
            "archive: tensor 'itc_staleness.step': expected rising steps, found 5 after 5");
  damaged = archive;
  damaged.put("itc_staleness.text", at::zeros({5, 6, 7}));
  EXPECT_EQ(error_of([&] { probe.load(damaged); }),
            "archive: tensor 'itc_staleness.text': expected [5, 6, 8] Float, found [5, 6, 7] Float");

  StalenessProbe other(options(), [] { return std::pair(at::zeros({3, 8}), at::zeros({3, 8})); });
  other.load(archive);
  EXPECT_NE(
      error_of([&] { other.measure(30, tau()); }).find("expected pairs like those of the run so far, [6, 8]"),
      std::string::npos);
  StalenessProbe single(options(), [] { return std::pair(at::zeros({1, 8}), at::zeros({1, 8})); });
  EXPECT_NE(error_of([&] { single.measure(0, tau()); }).find("at least 2 pairs"), std::string::npos);
  EXPECT_THROW(probe.measure(20, tau()), c10::Error);
}

}  // namespace
}  // namespace tessera::losses
