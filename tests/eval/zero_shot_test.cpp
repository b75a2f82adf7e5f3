#include "eval/zero_shot.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera::eval {
namespace {

namespace fs = std::filesystem;

void touch(const fs::path& path, const std::string& content = "x") {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << content;
}

TEST(ClassFolder, ListsClassesAndImagesInOrder) {
  const TemporaryFolder folder;
  touch(folder.path() / "tree_frog" / "b.JPG");
  touch(folder.path() / "tree_frog" / "a.png");
  touch(folder.path() / "tree_frog" / "notes.txt");
  touch(folder.path() / "cat" / "1.webp");
  touch(folder.path() / "readme.md");
  touch(folder.path() / "cat" / "2.gif");
  touch(folder.path() / "cat" / "._1.webp");
  touch(folder.path() / "cat" / "more.png" / "3.png");
  touch(folder.path() / "__MACOSX" / "cat" / "1.webp");
  const ClassFolder read = read_class_folder(folder.path(), {});
  EXPECT_EQ(read.folders, (std::vector<std::string>{"cat", "tree_frog"}));
  EXPECT_EQ(read.classes, (std::vector<std::string>{"cat", "tree frog"}));
  ASSERT_EQ(read.images.size(), 3u);
  const std::string root = folder.path().string();
  EXPECT_EQ(read.left_out, "1 folders within a class's (such as '" + root +
                               "/cat/more.png'), 2 hidden (such as '" + root +
                               "/__MACOSX'), 1 in no class's folder (such as '" + root +
                               "/readme.md'), 2 of other kinds (.gif 1, .txt 1)");
  EXPECT_EQ(read.images[1].first.filename(), "a.png");
  EXPECT_EQ(read.images[1].second, 1);
  touch(folder.path() / "names", "cat\thouse cat\r\ntree_frog\tfrog\nunused\tx\n");
  EXPECT_EQ(read_class_folder(folder.path(), folder.path() / "names").classes,
            (std::vector<std::string>{"house cat", "frog"}));
  touch(folder.path() / "names",
        "\xef\xbb\xbf"
        "cat\thouse cat\ntree_frog\tfrog");
  EXPECT_EQ(read_class_folder(folder.path(), folder.path() / "names").classes,
            (std::vector<std::string>{"house cat", "frog"}));
}

TEST(ClassFolder, RefusesTwoClassesOfOneName) {
  const TemporaryFolder folder;
  touch(folder.path() / "tree_frog" / "a.png");
  touch(folder.path() / "tree-frog" / "a.png");
  const std::string error = error_of([&] { read_class_folder(folder.path(), {}); });
  EXPECT_NE(error.find("'tree-frog' and 'tree_frog' are both called 'tree frog'"), std::string::npos)
      << error;
}

TEST(ClassFolder, RefusesWhatIsNone) {
  const TemporaryFolder folder;
  const std::string root = folder.path().string();
  EXPECT_EQ(error_of([&] {
              read_class_folder(folder.path() / "gone", {});
            }).rfind(root + "/gone: can't be listed", 0),
            0u);
  touch(folder.path() / "cat" / "1.png");
  EXPECT_EQ(error_of([&] { read_class_folder(folder.path(), {}); }),
            root + ": expected at least two class folders, FOLDER/CLASS/IMAGE, found 1");
  fs::create_directories(folder.path() / "dog");
  EXPECT_EQ(error_of([&] { read_class_folder(folder.path(), {}); }),
            root + "/dog: holds no image (.jpg, .jpeg, .png, .webp)");
  touch(folder.path() / "dog" / "1.png");
  touch(folder.path() / "names", "cat\tcat\n\ndog dog\n");
  EXPECT_EQ(error_of([&] { read_class_folder(folder.path(), folder.path() / "names"); }),
            root + "/names:3: expected FOLDER<tab>NAME, found 'dog dog'");
  touch(folder.path() / "names", "cat\tcat\n");
  EXPECT_EQ(error_of([&] { read_class_folder(folder.path(), folder.path() / "names"); }),
            root + "/names: has no line for the class folder 'dog'");
}

TEST(PromptTemplates, PutEveryClassInEverySentence) {
  EXPECT_EQ(class_prompts({"cat", "dog"}, {"a {}", "the {} here"}),
            (std::vector<std::string>{"a cat", "the cat here", "a dog", "the dog here"}));
  EXPECT_GE(prompt_templates({}).size(), 2u);
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "templates";
  touch(file, "one {}.\n\n{} two\n");
  EXPECT_EQ(prompt_templates(file), (std::vector<std::string>{"one {}.", "{} two"}));
  touch(file, "\xef\xbb\xbfone {}.\r\n\r\n{} two");
  EXPECT_EQ(prompt_templates(file), (std::vector<std::string>{"one {}.", "{} two"}));
  touch(file, "one {}\n{} caf\xe9\n");
  EXPECT_EQ(error_of([&] { prompt_templates(file); }).rfind(file.string() + ":2: expected UTF-8", 0), 0u);
  touch(file, "one {}\ntwo\n");
  EXPECT_EQ(error_of([&] { prompt_templates(file); }),
            file.string() + ":2: expected one {} in place of the class, found 'two'");
  touch(file, "{} {}\n");
  EXPECT_NE(error_of([&] { prompt_templates(file); }), "no error");
  touch(file, "\n");
  EXPECT_EQ(error_of([&] { prompt_templates(file); }), file.string() + ": holds no template");
}

TEST(ZeroShot, ClassEmbeddingsAreNormalisedMeans) {
  at::manual_seed(1);
  const at::Tensor prompts = at::randn({6, 5});
  const at::Tensor classes = class_embeddings(prompts, 2);
  for (std::int64_t c = 0; c < 2; ++c) {
    const at::Tensor mean = prompts.slice(0, 3 * c, 3 * c + 3).mean(0);
    EXPECT_TRUE(at::allclose(classes[c], mean / mean.norm()));
  }
}

TEST(ZeroShot, CountsTopOneTopFiveAndConfusions) {
  const at::Tensor classes = at::eye(8);
  // Image i is most like class labels[i] but the last, which is taken for class 0 and comes sixth in its own.
  const at::Tensor labels = at::tensor(std::vector<std::int64_t>{0, 1, 2, 7});
  at::Tensor image = classes.index_select(0, labels).clone();
  image[3] = at::tensor({9.0F, 8.0F, 7.0F, 6.0F, 5.0F, 3.0F, 2.0F, 4.0F});
  const ZeroShotScores scores = zero_shot_scores(image, classes, labels);
  EXPECT_EQ(scores.top1, 0.75);
  EXPECT_EQ(scores.top5, 0.75);
  EXPECT_EQ(scores.confusion.sum().item<std::int64_t>(), 4);
  EXPECT_EQ(scores.confusion[7][0].item<std::int64_t>(), 1);
  EXPECT_EQ(scores.confusion.trace().item<std::int64_t>(), 3);
  image[3][7] = 5.5F;
  EXPECT_EQ(zero_shot_scores(image, classes, labels).top5, 1);
  nlohmann::json json;
  add_to_json(json, scores, std::vector<std::string>(8, "c"));
  EXPECT_EQ(json.at("zero_shot_top1_chance"), 0.125);
  EXPECT_EQ(json.at("zero_shot_top5_chance"), 0.625);
  EXPECT_EQ(json.at("zero_shot_confusion").at(7).at(0), 1);
}

TEST(ZeroShot, TiesCountAgainst) {
  const ZeroShotScores scores =
      zero_shot_scores(at::ones({5, 3}), at::ones({7, 3}), at::zeros({5}, at::kLong));
  EXPECT_EQ(scores.top5, 0);
}

}  // namespace
}  // namespace tessera::eval
