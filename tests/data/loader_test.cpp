#include "data/loader.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <chrono>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "data/open_source.h"
#include "data/webdataset.h"
#include "data/worker_threads.h"
#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::HasSubstr;

constexpr int kSamples = 26;

class TrainLoaderTest : public ::testing::Test {
 protected:
  std::shared_ptr<const WebDataset> dataset(const Members& members) {
    return WebDataset::open({write_tar(folder_.file("train.tar"), members)}, logger_);
  }
  std::shared_ptr<const WebDataset> sound() { return dataset(sound_samples(kSamples)); }

  /// Sound samples of which some have an image that breaks in decoding.
  std::shared_ptr<const WebDataset> with_broken(const std::set<int>& broken, int samples = kSamples) {
    Members members = sound_samples(samples);
    for (const int i : broken) {
      std::string& jpeg = members[static_cast<std::size_t>(2 * i)].second;
      jpeg.resize(jpeg.size() / 2);
    }
    return dataset(members);
  }

  std::string log() const { return log_.str(); }

  TemporaryFolder folder_;
  std::ostringstream log_;
  Logger logger_ =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_));
};

const TrainLoaderShare kAlone{.seed = 11};

DataConfig small_options() {
  DataConfig options;
  options.image_size = 16;
  options.batch_size = 4;
  options.workers = 2;
  options.prefetch_batches = 3;
  return options;
}

std::vector<Batch> remaining(TrainLoader& loader) {
  std::vector<Batch> batches;
  while (auto batch = loader.next()) batches.push_back(std::move(*batch));
  return batches;
}

std::vector<Batch> epoch(TrainLoader& loader, std::int64_t epoch, std::int64_t first_batch = 0) {
  loader.start_epoch(epoch, first_batch);
  return remaining(loader);
}

void expect_same(const Batch& left, const Batch& right) {
  EXPECT_TRUE(left.pixels.equal(right.pixels));
  EXPECT_TRUE(left.image_ids.equal(right.image_ids));
  EXPECT_EQ(left.captions, right.captions);
  EXPECT_EQ(left.keys, right.keys);
  EXPECT_EQ(left.index, right.index);
}

void expect_same(const std::vector<Batch>& left, const std::vector<Batch>& right) {
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i) expect_same(left[i], right[i]);
}

std::vector<std::string> keys_of(const std::vector<Batch>& batches) {
  std::vector<std::string> keys;
  for (const auto& batch : batches) keys.insert(keys.end(), batch.keys.begin(), batch.keys.end());
  return keys;
}

TEST_F(TrainLoaderTest, AnyNumberOfWorkersGivesTheSameBytes) {
  const auto data = sound();
  DataConfig options = small_options();
  options.workers = 1;
  options.prefetch_batches = 1;
  TrainLoader one(data, options, kAlone, logger_);
  options.workers = 3;
  options.prefetch_batches = 5;
  TrainLoader three(data, options, kAlone, logger_);
  for (const std::int64_t e : {0, 1, 5}) expect_same(epoch(one, e), epoch(three, e));
}

TEST_F(TrainLoaderTest, ATableOfTheSamePicturesGivesTheSameBatches) {
  std::string table = "image,caption,image_id\n";
  for (int i = 0; i < kSamples; ++i) {
    write_bytes(folder_.file(fmt::format("s{:02}.jpg", i)), encoded_image(".jpg", i));
    for (const char* which : {"first", "second"})
      table += fmt::format("s{0:02}.jpg,\"{1} of {0}\",image-{0}\n", i, which);
  }
  write_bytes(folder_.file("captions.csv"), table);
  TrainLoader from_tar(sound(), small_options(), kAlone, logger_);
  TrainLoader from_table(open_source({folder_.file("captions.csv")}, {}, logger_), small_options(), kAlone,
                         logger_);
  for (const std::int64_t e : {0, 1, 7}) {
    auto batches = epoch(from_table, e);
    EXPECT_EQ(batches.size(), 6u);
    for (Batch& batch : batches) {
      for (std::string& key : batch.keys) key.resize(key.size() - 4);  // a table's key has .jpg
    }
    expect_same(epoch(from_tar, e), batches);
  }
}

TEST_F(TrainLoaderTest, AnEpochShowsEverySampleOnceWithItsOwnIdAndCaption) {
  DataConfig options = small_options();
  options.drop_last = false;
  TrainLoader loader(sound(), options, kAlone, logger_);
  const auto batches = epoch(loader, 0);
  ASSERT_EQ(batches.size(), 7u);
  EXPECT_EQ(loader.batches_per_epoch(), 7);
  EXPECT_EQ(batches.back().pixels.sizes(), (std::vector<std::int64_t>{2, 3, 16, 16}));
  std::set<std::string> keys;
  for (const auto& batch : batches) {
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      EXPECT_TRUE(keys.insert(batch.keys[i]).second);
      const std::string number = std::to_string(std::stoi(batch.keys[i].substr(1)));
      EXPECT_EQ(batch.image_ids[static_cast<std::int64_t>(i)].item<std::int64_t>(),
                image_id_number("image-" + number));
      EXPECT_TRUE(batch.captions[i] == "first of " + number || batch.captions[i] == "second of " + number);
    }
  }
  EXPECT_EQ(keys.size(), static_cast<std::size_t>(kSamples));
}

TEST_F(TrainLoaderTest, AShortLastBatchIsDroppedOnRequest) {
  TrainLoader loader(sound(), small_options(), kAlone, logger_);
  const auto batches = epoch(loader, 0);
  ASSERT_EQ(batches.size(), 6u);
  for (const auto& batch : batches) EXPECT_EQ(batch.pixels.size(0), 4);
}

TEST_F(TrainLoaderTest, EpochsDifferInOrderCaptionsAndCrops) {
  TrainLoader loader(sound(), small_options(), kAlone, logger_);
  std::map<std::string, std::set<std::string>> captions;
  std::vector<std::vector<Batch>> epochs;
  for (std::int64_t e = 0; e < 8; ++e) {
    epochs.push_back(epoch(loader, e));
    for (const auto& batch : epochs.back()) {
      for (std::size_t i = 0; i < batch.keys.size(); ++i) captions[batch.keys[i]].insert(batch.captions[i]);
    }
  }
  EXPECT_NE(keys_of(epochs[0]), keys_of(epochs[1]));
  std::size_t both = 0;
  for (const auto& [key, drawn] : captions) both += drawn.size() == 2 ? 1 : 0;
  EXPECT_GT(both, captions.size() / 2);
  const std::string key = epochs[0][0].keys[0];
  for (const auto& batch : epochs[1]) {
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      if (batch.keys[i] != key) continue;
      EXPECT_FALSE(batch.pixels[static_cast<std::int64_t>(i)].equal(epochs[0][0].pixels[0]));
    }
  }
}

TEST_F(TrainLoaderTest, AnEpochEnteredInTheMiddleContinuesAsIfUninterrupted) {
  const auto data = sound();
  TrainLoader loader(data, small_options(), kAlone, logger_);
  const auto whole = epoch(loader, 3);
  for (const std::int64_t first : {1, 4, 6}) {
    TrainLoader resumed(data, small_options(), kAlone, logger_);
    expect_same(epoch(resumed, 3, first), {whole.begin() + first, whole.end()});
  }
  // The same loader, in mid-epoch.
  loader.start_epoch(2);
  loader.next();
  expect_same(epoch(loader, 3, 2), {whole.begin() + 2, whole.end()});
}

TEST_F(TrainLoaderTest, TwoRanksReadWhatOneReadsWithTwiceTheBatch) {
  const auto data = with_broken({3, 9});
  DataConfig options = small_options();
  options.max_broken_fraction = 0.2;
  options.drop_last = false;
  options.batch_size = 8;
  TrainLoader whole(data, options, kAlone, logger_);
  options.batch_size = 4;
  TrainLoader rank0(data, options, {.seed = 11, .rank = 0, .world_size = 2}, logger_);
  TrainLoader rank1(data, options, {.seed = 11, .rank = 1, .world_size = 2}, logger_);
  const auto together = epoch(whole, 1);
  const auto first = epoch(rank0, 1);
  const auto second = epoch(rank1, 1);
  ASSERT_EQ(together.size(), 4u);
  ASSERT_EQ(first.size(), together.size());
  ASSERT_EQ(second.size(), together.size());
  for (std::size_t i = 0; i < together.size(); ++i) {
    EXPECT_TRUE(at::cat({first[i].pixels, second[i].pixels}).equal(together[i].pixels));
    EXPECT_TRUE(at::cat({first[i].image_ids, second[i].image_ids}).equal(together[i].image_ids));
    std::vector<std::string> captions = first[i].captions;
    captions.insert(captions.end(), second[i].captions.begin(), second[i].captions.end());
    EXPECT_EQ(captions, together[i].captions);
  }
}

TEST_F(TrainLoaderTest, ABrokenSampleIsReplacedByTheNextSoundOneOfTheOrder) {
  const std::set<int> broken = {0, 7, 8, 20};
  const auto data = with_broken(broken);
  DataConfig options = small_options();
  options.max_broken_fraction = 0.2;
  options.drop_last = false;
  TrainLoader loader(data, options, kAlone, logger_);
  for (std::int64_t e = 0; e < 3; ++e) {
    const auto order = *EpochSampler({kSamples, 4, false, 11, 0, 1}).order(e);
    const auto keys = keys_of(epoch(loader, e));
    ASSERT_EQ(keys.size(), order.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      std::size_t at = i;
      while (broken.count(static_cast<int>(order[at])) != 0) at = (at + 1) % order.size();
      EXPECT_EQ(keys[i], fmt::format("s{:02}", order[at])) << "epoch " << e << ", position " << i;
    }
  }
  EXPECT_EQ(loader.broken(), 4);
  for (const int i : broken) {
    const std::string line = fmt::format("broken sample 's{:02}'", i);
    const std::string text = log();
    const std::size_t at = text.find(line);
    ASSERT_NE(at, std::string::npos) << line;
    EXPECT_EQ(text.find(line, at + 1), std::string::npos) << "logged more than once: " << line;
  }
}

TEST_F(TrainLoaderTest, TooManyBrokenSamplesStopTheRun) {
  const auto data = with_broken({1, 2, 3, 4, 5});
  DataConfig options = small_options();
  options.max_broken_fraction = 0.1;
  TrainLoader loader(data, options, kAlone, logger_);
  loader.start_epoch(0);
  const std::string error = error_of([&] { remaining(loader); });
  EXPECT_THAT(error, HasSubstr("max_broken_fraction"));
  EXPECT_THAT(error, HasSubstr("s0"));
  options.max_broken_fraction = 0.2;
  TrainLoader tolerant(data, options, kAlone, logger_);
  EXPECT_EQ(epoch(tolerant, 0).size(), 6u);
}

TEST_F(TrainLoaderTest, NothingButBrokenSamplesIsAnErrorNotAnEndlessSearch) {
  std::set<int> all;
  for (int i = 0; i < 12; ++i) all.insert(i);
  DataConfig options = small_options();
  options.max_broken_fraction = 1.0;
  TrainLoader loader(with_broken(all, 12), options, kAlone, logger_);
  loader.start_epoch(0);
  EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("broken samples one after another"));
  EXPECT_NE(error_of([&] { loader.next(); }), "") << "an error must not be followed by an ordinary end";
}

TEST_F(TrainLoaderTest, IncompleteSamplesOfTheShardsCountToo) {
  Members members = sound_samples(8);
  members.emplace_back("orphan.jpg", encoded_image(".jpg", 1));
  const auto data = dataset(members);
  DataConfig options = small_options();
  EXPECT_THAT(error_of([&] { TrainLoader(data, options, kAlone, logger_); }), HasSubstr("orphan"));
  options.max_broken_fraction = 0.2;
  EXPECT_EQ(TrainLoader(data, options, kAlone, logger_).broken(), 1);
}

TEST_F(TrainLoaderTest, CanBeAbandonedAtAnyMoment) {
  const auto data = sound();
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 40; ++i) {
    DataConfig options = small_options();
    options.workers = 1 + i % 4;
    TrainLoader loader(data, options, kAlone, logger_);
    if (i % 5 == 0) continue;  // never started
    loader.start_epoch(i);
    for (int taken = 0; taken < i % 4; ++taken) loader.next();
    if (i % 3 == 0) loader.start_epoch(i + 1);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
}

TEST_F(TrainLoaderTest, BeforeAnEpochAndAfterItThereIsNothing) {
  TrainLoader loader(sound(), small_options(), kAlone, logger_);
  EXPECT_FALSE(loader.next().has_value());
  epoch(loader, 0);
  EXPECT_FALSE(loader.next().has_value());
  loader.start_epoch(1, loader.batches_per_epoch());
  EXPECT_FALSE(loader.next().has_value());
  EXPECT_THROW(loader.start_epoch(1, loader.batches_per_epoch() + 1), c10::Error);
  EXPECT_GT(loader.seconds_waited(), 0.0);
}

TEST_F(TrainLoaderTest, EvaluationSeesEverySoundSampleOnceInOrder) {
  const auto data = with_broken({0, 4, 5, 6, 7, 13});
  DataConfig options;
  options.image_size = 16;
  options.workers = 3;
  options.max_broken_fraction = 0.3;
  EvalLoader loader(data, options, /*batch_size=*/4, logger_);
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<std::string> keys;
    while (const auto batch = loader.next()) {
      EXPECT_GT(batch->keys.size(), 0u);
      EXPECT_EQ(batch->pixels.size(0), static_cast<std::int64_t>(batch->keys.size()));
      EXPECT_EQ(batch->image_ids.size(0), static_cast<std::int64_t>(batch->keys.size()));
      for (const auto& captions : batch->captions) EXPECT_EQ(captions.size(), 2u);
      ASSERT_EQ(batch->indices.size(), batch->keys.size());
      for (std::size_t i = 0; i < batch->keys.size(); ++i)
        EXPECT_EQ(data->key(batch->indices[i]), batch->keys[i]);
      keys.insert(keys.end(), batch->keys.begin(), batch->keys.end());
    }
    EXPECT_EQ(keys.size(), 20u);
    EXPECT_EQ(keys.front(), "s01");
    EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
    EXPECT_EQ(loader.broken(), 6);
    loader.start();
  }
  options.max_broken_fraction = 0.1;
  EvalLoader strict(data, options, /*batch_size=*/4, logger_);
  EXPECT_NE(error_of([&] {
              while (strict.next()) {
              }
            }),
            "");
}

TEST(WorkerThreads, ComputeAloneAndLeaveTheTrainingThreadItsThreads) {
  at::set_num_threads(2);
  int in_worker = 0;
  std::thread([&] {
    compute_single_threaded_here();
    in_worker = at::get_num_threads();
  }).join();
  EXPECT_EQ(in_worker, 1);
  EXPECT_EQ(at::get_num_threads(), 2);
}

}  // namespace
}  // namespace tessera::data
