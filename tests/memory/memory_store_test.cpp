#include "memory/memory_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <latch>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/core/error_of.h"
#include "tests/core/largest_difference.h"
#include "tests/core/temporary_folder.h"

namespace tessera::memory {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kStoreSlots = 64;
constexpr std::int64_t kStoreCode = 96;

torch::Tensor prior_mean() {
  torch::manual_seed(11);
  return torch::randn({kStoreSlots, kStoreCode}) / std::sqrt(static_cast<double>(kStoreCode));
}

MemoryStore empty_store() { return {prior_mean(), "model-a"}; }

/// Codes of mean square 1.
torch::Tensor random_codes(std::int64_t count, int seed) {
  torch::manual_seed(seed);
  const auto codes = torch::randn({count, kStoreCode});
  return codes / codes.square().mean(1, /*keepdim=*/true).sqrt();
}

std::string id_of(std::int64_t i) { return "item-" + std::to_string(i); }

MemoryEntry entry_of(std::int64_t i) {
  return {id_of(i), "caption " + std::to_string(i), "images/" + std::to_string(i) + ".png"};
}

MemoryStore store_of(const torch::Tensor& codes, const std::vector<std::int64_t>& order) {
  MemoryStore store = empty_store();
  for (const auto i : order) store.write(codes[i], entry_of(i));
  return store;
}

std::vector<std::int64_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(end - begin));
  std::iota(order.begin(), order.end(), begin);
  return order;
}

double mean_cosine(const torch::Tensor& left, const torch::Tensor& right) {
  return torch::cosine_similarity(left, right).mean().item<double>();
}

torch::Tensor onto_written(const torch::Tensor& written, const torch::Tensor& queries) {
  const auto wide = written.to(torch::kDouble);
  return queries.to(torch::kDouble).matmul(torch::linalg_pinv(wide)).matmul(wide);
}

/// The memory's matrix, as the file holds it.
torch::Tensor matrix_of(const MemoryStore& store) {
  const TemporaryFolder folder;
  store.save(folder.path() / "m.safetensors");
  return SafetensorsFile(folder.path() / "m.safetensors").tensor("memory").clone();
}

TEST(MemoryStore, ReadingIsTheProjectionOntoTheWrittenCodes) {
  const auto codes = random_codes(40, 1);
  const auto queries = random_codes(9, 2);
  const MemoryStore store = store_of(codes, range(0, 40));
  EXPECT_LT(largest_difference(store.read(queries), onto_written(codes, queries)), 1e-5);
  EXPECT_LT(largest_difference(store.read(codes), codes), 1e-5);
}

TEST(MemoryStore, WritingOneByOneIsTheBatchLeastSquaresSolution) {
  for (const std::int64_t count : {40, 128}) {
    const auto codes = random_codes(count, 3);
    const auto addresses =
        codes.to(torch::kDouble).matmul(torch::linalg_pinv(prior_mean().to(torch::kDouble)));
    const auto expected = torch::linalg_pinv(addresses).matmul(codes.to(torch::kDouble));
    const auto found = matrix_of(store_of(codes, range(0, count)));
    EXPECT_LT(largest_difference(found, expected) / expected.abs().max().item<double>(), 1e-6) << count;
  }
}

TEST(MemoryStore, ForgettingIsNeverHavingWritten) {
  for (const std::int64_t count : {40, 128}) {
    const auto codes = random_codes(count, 4);
    MemoryStore store = store_of(codes, range(0, count));
    for (const auto i : range(0, count / 2)) store.forget(id_of(i));
    const MemoryStore expected = store_of(codes, range(count / 2, count));
    // 128 - 64 = K entries are left: there, a refit itself is known to fewer digits.
    const double tolerance = count == 40 ? 1e-6 : 1e-4;
    const auto matrix = matrix_of(expected);
    EXPECT_LT(largest_difference(matrix_of(store), matrix) / matrix.abs().max().item<double>(), tolerance);
    EXPECT_EQ(store.list(), expected.list());
    if (count == 40) {
      const auto queries = random_codes(9, 5);
      EXPECT_LT(largest_difference(store.read(queries), expected.read(queries)), 1e-5);
      EXPECT_EQ(store.stats().rank, 20);
    }
  }
}

TEST(MemoryStore, ForgettingOneOfMoreThanCapacityIsARefit) {
  const auto codes = random_codes(2 * kStoreSlots, 6);
  MemoryStore store = store_of(codes, range(0, 2 * kStoreSlots));
  store.forget(id_of(7));
  EXPECT_LT(store.stats().drift, 1e-9);
}

TEST(MemoryStore, ForgottenReadsLikeNeverWrittenAndKeptLikeWritten) {
  const auto codes = random_codes(60, 7);
  MemoryStore store = store_of(codes, range(0, 40));
  const auto queries = codes + 0.3 * random_codes(60, 8);
  const auto cosine = [&](std::int64_t begin, std::int64_t end) {
    return mean_cosine(store.read(queries.slice(0, begin, end)), codes.slice(0, begin, end));
  };
  EXPECT_GT(cosine(0, 40), 0.95);
  for (const auto i : range(0, 20)) store.forget(id_of(i));
  EXPECT_GT(cosine(20, 40), 0.95);
  EXPECT_LT(cosine(0, 20), 0.65);
  EXPECT_NEAR(cosine(0, 20), cosine(40, 60), 0.1);
}

TEST(MemoryStore, WhatWasForgottenCanBeWrittenAgain) {
  const auto codes = random_codes(20, 9);
  MemoryStore store = store_of(codes, range(0, 20));
  const auto before = store.read(codes);
  store.forget(id_of(3));
  EXPECT_GT(largest_difference(store.read(codes.slice(0, 3, 4)), codes.slice(0, 3, 4)), 0.1);
  store.write(codes[3], entry_of(3));
  EXPECT_LT(largest_difference(store.read(codes), before), 1e-5);
}

TEST(MemoryStore, TheLastForgottenLeavesAnEmptyMemory) {
  const auto codes = random_codes(3, 10);
  MemoryStore store = store_of(codes, {0, 1, 2});
  for (const auto i : {1, 0, 2}) store.forget(id_of(i));
  EXPECT_EQ(store.read(codes).abs().max().item<float>(), 0.0f);
  EXPECT_EQ(store.recall(codes[0]).confidence, 0.0);
  EXPECT_TRUE(store.recall(codes[0]).nearest.empty());
  EXPECT_EQ(store.stats().rank, 0);
}

TEST(MemoryStore, ManyRoundsDoNotDrift) {
  const auto codes = random_codes(30, 12);
  MemoryStore store = store_of(codes, range(0, 30));
  for (int round = 0; round < 300; ++round) {
    store.forget(id_of(round % 30));
    store.write(codes[round % 30], entry_of(round % 30));
  }
  EXPECT_LT(store.stats().drift, 1e-5);
}

TEST(MemoryStore, TheOrderOfWritingDoesNotMatter) {
  const auto codes = random_codes(40, 13);
  auto order = range(0, 40);
  const auto forward = matrix_of(store_of(codes, order));
  std::reverse(order.begin(), order.end());
  EXPECT_LT(largest_difference(matrix_of(store_of(codes, order)), forward), 1e-6);
}

TEST(MemoryStore, BeyondCapacityEveryQueryKeepsTheSameShare) {
  const auto codes = random_codes(4 * kStoreSlots, 14);
  const auto others = random_codes(50, 15);
  const MemoryStore store = store_of(codes, range(0, 4 * kStoreSlots));
  const double expected = std::sqrt(static_cast<double>(kStoreSlots) / kStoreCode);
  EXPECT_NEAR(mean_cosine(store.read(others), others), expected, 0.05);
  const auto stats = store.stats();
  EXPECT_EQ(stats.rank, kStoreSlots);
  EXPECT_GT(stats.entries, stats.capacity);
}

TEST(MemoryStore, RecallNamesTheEntryAndSaysHowSureItIs) {
  const auto codes = random_codes(60, 16);
  const MemoryStore store = store_of(codes, range(0, 30));
  const auto queries = codes + 0.3 * random_codes(60, 17);
  double least_written = 1;
  double most_unwritten = 0;
  for (std::int64_t i = 0; i < 60; ++i) {
    const auto found = store.recall(queries[i], 2);
    ASSERT_EQ(found.nearest.size(), 2u);
    EXPECT_GE(found.nearest[0].similarity, found.nearest[1].similarity);
    if (i < 30) {
      EXPECT_EQ(found.nearest[0].entry, entry_of(i));
      least_written = std::min(least_written, found.confidence);
    } else {
      most_unwritten = std::max(most_unwritten, found.confidence);
    }
  }
  EXPECT_GT(least_written, 0.6);
  EXPECT_LT(most_unwritten, 0.4);
  EXPECT_NEAR(store.recall(codes[4]).confidence, 1.0, 1e-4);
  EXPECT_NEAR(store.recall(-3 * codes[4]).confidence, 1.0, 1e-4) << "a code's scale says nothing";
}

TEST(MemoryStore, OneEntryIsNotConfidentOfEverything) {
  const auto codes = random_codes(20, 18);
  const MemoryStore store = store_of(codes, {0});
  EXPECT_NEAR(store.recall(codes[0]).confidence, 1.0, 1e-4);
  for (std::int64_t i = 1; i < 20; ++i) EXPECT_LT(store.recall(codes[i]).confidence, 0.2);
}

TEST(MemoryStore, TwoEntriesOfOneCodeShareItAndEitherCanGo) {
  const auto codes = random_codes(2, 19);
  MemoryStore store = empty_store();
  store.write(codes[0], {"first", "a", ""});
  store.write(codes[0], {"second", "b", ""});
  EXPECT_EQ(store.stats().rank, 1);
  EXPECT_NEAR(store.recall(codes[0]).confidence, 0.5, 1e-3);
  store.forget("first");
  EXPECT_LT(largest_difference(store.read(codes.slice(0, 0, 1)), codes.slice(0, 0, 1)), 1e-5);
  EXPECT_EQ(store.recall(codes[0]).nearest.at(0).entry.id, "second");
}

TEST(MemoryStore, WhatIsRefusedLeavesTheMemoryAsItWas) {
  const auto codes = random_codes(5, 20);
  MemoryStore store = store_of(codes, {0, 1, 2});
  const auto before = matrix_of(store);
  EXPECT_THAT(error_of([&] { store.write(codes[3], entry_of(1)); }),
              HasSubstr("'item-1' is already there (\"caption 1\")"));
  EXPECT_THAT(error_of([&] { store.write(codes[3], {"", "caption", ""}); }), HasSubstr("not empty"));
  EXPECT_THAT(error_of([&] { store.write(codes[3], {"x", "\xff", ""}); }), HasSubstr("UTF-8"));
  EXPECT_THAT(error_of([&] { store.write(torch::ones({kStoreCode - 1}), entry_of(3)); }),
              HasSubstr("the code of 'item-3' has shape [95], expected [96]"));
  auto spoilt = codes[3].clone();
  spoilt[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(error_of([&] { store.write(spoilt, entry_of(3)); }), HasSubstr("not finite"));
  EXPECT_THAT(error_of([&] { store.write(torch::zeros({kStoreCode}), entry_of(3)); }), HasSubstr("is zero"));
  EXPECT_THAT(error_of([&] { store.write(1e4 * codes[3], entry_of(3)); }), HasSubstr("mean square"));
  EXPECT_THAT(error_of([&] { store.forget("itm-2"); }), HasSubstr("no 'itm-2'; near: item-2"));
  EXPECT_THAT(error_of([&] { store.recall(spoilt); }), HasSubstr("the query holds values"));
  EXPECT_THAT(error_of([&] { empty_store().forget("x"); }), HasSubstr("empty"));
  EXPECT_TRUE(torch::equal(matrix_of(store), before));
  EXPECT_EQ(store.list().size(), 3u);
}

class MemoryFile : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "memory.safetensors"; }

  /// The error of loading the file after `change` was made to its tensors and metadata.
  std::string error_after(const std::function<void(TensorMap&, StringMap&)>& change) const {
    store_of(random_codes(5, 21), range(0, 5)).save(path());
    TensorMap tensors;
    StringMap metadata;
    {
      const SafetensorsFile file(path());
      metadata = file.metadata();
      for (const auto& [name, tensor] : file.tensors()) tensors[name] = tensor.clone();
    }
    change(tensors, metadata);
    write_safetensors(path(), tensors, metadata);
    const std::string error = error_of([&] { MemoryStore::load(path(), "model-a"); });
    EXPECT_THAT(error, HasSubstr(path().string()));
    return error;
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(MemoryFile, ComesBackBitForBit) {
  const auto codes = random_codes(30, 22);
  MemoryStore store = store_of(codes, range(0, 30));
  store.forget(id_of(4));
  store.save(path());
  MemoryStore loaded = MemoryStore::load(path(), "model-a");
  EXPECT_EQ(loaded.list(), store.list());
  EXPECT_TRUE(torch::equal(loaded.read(codes), store.read(codes)));
  loaded.save(path().string() + ".again");
  EXPECT_EQ(read_file(path()), read_file(path().string() + ".again"));
  // And goes on as if it had never been away.
  store.forget(id_of(9));
  loaded.forget(id_of(9));
  EXPECT_TRUE(torch::equal(matrix_of(loaded), matrix_of(store)));
}

TEST_F(MemoryFile, AnEmptyMemoryComesBackToo) {
  empty_store().save(path());
  MemoryStore loaded = MemoryStore::load(path(), "model-a");
  EXPECT_TRUE(loaded.list().empty());
  loaded.write(random_codes(1, 23)[0], entry_of(0));
  EXPECT_EQ(loaded.stats().rank, 1);
}

TEST_F(MemoryFile, OfAnotherModelIsRefusedNamingBoth) {
  empty_store().save(path());
  const std::string error = error_of([&] { MemoryStore::load(path(), "model-b"); });
  EXPECT_THAT(error, HasSubstr("model-a"));
  EXPECT_THAT(error, HasSubstr("model-b"));
}

TEST_F(MemoryFile, WithoutAModelItIsThatOfTheFile) {
  empty_store().save(path());
  const std::string before = read_file(path());
  const MemoryStore loaded = MemoryStore::load(path(), std::nullopt);
  EXPECT_EQ(loaded.fingerprint(), "model-a");
  loaded.save(path());
  EXPECT_EQ(read_file(path()), before);
}

TEST_F(MemoryFile, MetadataIsChecked) {
  const auto with = [&](const std::string& key, const std::string& value) {
    return error_after([&](TensorMap&, StringMap& metadata) { metadata[key] = value; });
  };
  EXPECT_THAT(with("format", "recipe"), HasSubstr("expected format tessera-memory, found recipe"));
  EXPECT_THAT(with("format_version", "2"), HasSubstr("version 2"));
  EXPECT_THAT(with("entries", "[{"), HasSubstr("entries: not valid JSON"));
  EXPECT_THAT(with("entries", "{}"), HasSubstr("have to be a list"));
  EXPECT_THAT(with("entries", R"([{"id": "a", "caption": 3, "image": ""}])"),
              HasSubstr("entries[0]: 'caption'"));
  EXPECT_THAT(with("entries", R"([{"id": "a", "caption": "", "image": ""},
                                  {"id": "a", "caption": "", "image": ""}])"),
              HasSubstr("'a' is given twice"));
  EXPECT_THAT(with("entries", "[]"), HasSubstr("tensor 'codes': expected Float [0, 96]"));
  EXPECT_THAT(error_after([](TensorMap&, StringMap& metadata) { metadata.clear(); }),
              HasSubstr("no memory file"));
}

TEST_F(MemoryFile, ArraysAreChecked) {
  const auto with = [&](const std::string& name, const std::function<torch::Tensor(torch::Tensor)>& change) {
    return error_after([&](TensorMap& tensors, StringMap&) { tensors[name] = change(tensors.at(name)); });
  };
  EXPECT_THAT(with("codes", [](auto t) { return t.to(torch::kDouble); }),
              HasSubstr("'codes': expected Float"));
  EXPECT_THAT(with("memory", [](auto t) { return t.slice(0, 1); }), HasSubstr("'memory': expected Double"));
  EXPECT_THAT(with("prior_mean", [](auto t) { return t.slice(1, 0, 64); }),
              HasSubstr("fewer rows than columns"));
  EXPECT_THAT(with("accumulator", [](auto t) { return t / 0; }), HasSubstr("not finite"));
  // Right in form and wrong in content.
  EXPECT_THAT(with("accumulator",
                   [](auto t) {
                     return t.index_put_({0, 0}, 1e4);
                   }),
              HasSubstr("'accumulator' is not"));
  EXPECT_THAT(with("memory",
                   [](auto t) {
                     return t.index_put_({3, 5}, 30.0);
                   }),
              HasSubstr("'memory' is not"));
  EXPECT_THAT(with("codes", [](auto t) { return t.index_put_({1, 5}, 3.0); }), HasSubstr("is damaged"));
  EXPECT_THAT(with("codes", [](auto t) { return t * 1e30; }), HasSubstr("mean square"));
  EXPECT_THAT(error_after([](TensorMap& tensors, StringMap&) { tensors.erase("memory"); }),
              HasSubstr("'memory' is missing"));
  EXPECT_THAT(error_after([](TensorMap& tensors, StringMap&) { tensors["more"] = torch::ones({1}); }),
              HasSubstr("more"));
}

TEST_F(MemoryFile, CutOffAnywhereIsAnErrorOfTheFile) {
  store_of(random_codes(5, 24), range(0, 5)).save(path());
  const std::string whole = read_file(path());
  for (const double share : {0.0, 0.001, 0.3, 0.999}) {
    std::ofstream(path(), std::ios::binary | std::ios::trunc)
        << whole.substr(0, static_cast<std::size_t>(share * static_cast<double>(whole.size())));
    EXPECT_THAT(error_of([&] { MemoryStore::load(path(), "model-a"); }), HasSubstr(path().string())) << share;
  }
}

TEST_F(MemoryFile, AFailedSaveLeavesTheOldFile) {
  const auto codes = random_codes(6, 25);
  MemoryStore store = store_of(codes, range(0, 5));
  store.save(path());
  const std::string before = read_file(path());
  EXPECT_THAT(error_of([&] { store.save(path() / "inside-a-file"); }), HasSubstr("inside-a-file"));
  EXPECT_EQ(read_file(path()), before);
}

TEST(MemoryStore, SeveralThreadsReadAtOnce) {
  torch::set_num_threads(1);
  const auto codes = random_codes(12, 40);
  const auto queries = random_codes(5, 41);
  const at::Tensor expected = store_of(codes, range(0, 12)).read(queries);
  for (int round = 0; round < 10; ++round) {
    // Nothing is solved yet, and a copy shares what the first reader solves until one of the two changes.
    MemoryStore store = store_of(codes, range(0, 12));
    const MemoryStore copy = store;
    std::vector<at::Tensor> found(4);
    std::vector<double> confidences(4);
    std::latch start(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < found.size(); ++i) {
      threads.emplace_back([&, i] {
        start.arrive_and_wait();
        const MemoryStore& read_from = i % 2 == 0 ? store : copy;
        found[i] = read_from.read(queries);
        confidences[i] = read_from.recall(codes[3]).confidence;
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_TRUE(torch::equal(found[i], expected)) << round;
      ASSERT_EQ(confidences[i], confidences[0]) << round;
    }
    store.forget(id_of(3));
    EXPECT_TRUE(torch::equal(copy.read(queries), expected));
    EXPECT_FALSE(torch::equal(store.read(queries), expected));
  }
}

}  // namespace
}  // namespace tessera::memory
