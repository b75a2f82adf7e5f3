#include "eval/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "eval/retrieval.h"

namespace tessera::eval {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Report, ShowsRetrievalAsATableInPerCent) {
  nlohmann::json figures = to_json(RetrievalScores{{0.25, 0.5, 0.75, 3}, {0.125, 0.25, 0.5, 7.5}, 8, 40});
  const std::string table = to_table(figures);
  EXPECT_TRUE(
      has(table, "ITC                25.00   50.00   75.00     3.0   12.50   25.00   50.00     7.5\n"))
      << table;
  EXPECT_TRUE(has(table, "8 images, 40 captions\n")) << table;
  EXPECT_FALSE(has(table, "MaxSim"));
  EXPECT_FALSE(has(table, "mean_r1"));
  figures["maxsim_image_to_text_r1"] = 0.5;
  EXPECT_TRUE(has(to_table(figures), "\nMaxSim             50.00"));
}

TEST(Report, ShowsAFigureBesideItsControls) {
  const nlohmann::json figures = {{"itm_accuracy", 0.75},
                                  {"itm_accuracy_chance", 0.5},
                                  {"itm_accuracy_swapped", 0.51},
                                  {"itm_pairs", 640},
                                  {"generated_captions", nlohmann::json::array({1, 2})}};
  EXPECT_EQ(to_table(figures),
            "itm_accuracy                        0.7500  chance 0.5000  other image 0.5100\n"
            "itm_pairs                              640\n");
}

}  // namespace
}  // namespace tessera::eval
