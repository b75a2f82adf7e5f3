#include "golden_harness.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "core/error.h"
#include "tests/core/temporary_folder.h"

namespace tessera::golden {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// y = w x², loss = Σ y: an op small enough to know everything about.
GoldenResult scaled_square(const GoldenCase& golden) {
  const at::Tensor x = golden.inputs.at("x").requires_grad_();
  const at::Tensor w = golden.weights.at("scale").requires_grad_();
  const at::Tensor y = w * x * x;
  GoldenResult result{{{"y", y}, {"loss", y.sum()}}, {{"in.x", x}, {"w.scale", w}}};
  if (golden.inputs.count("unused") != 0) {
    result.leaves["in.unused"] = golden.inputs.at("unused").requires_grad_();
  }
  return result;
}

const GoldenOps kOps{
    {"scaled_square", scaled_square},
    {"throws", [](const GoldenCase&) -> GoldenResult { fail("the op's own complaint"); }},
};

class GoldenHarness : public ::testing::Test {
 protected:
  GoldenHarness() {
    const at::Tensor x = torch::tensor({{1.0f, 2.0f}, {-3.0f, 0.5f}});
    const at::Tensor w = torch::tensor({2.0f});
    tensors_ = {{"in.x", x},          {"w.scale", w},
                {"out.y", 2 * x * x}, {"out.loss", (2 * x * x).sum()},
                {"grad.in.x", 4 * x}, {"grad.w.scale", (x * x).sum().view({1})}};
  }

  GoldenCase read() {
    const auto path = folder_.path() / "made_up.safetensors";
    write_safetensors(path, tensors_, metadata_);
    return read_golden_case(path);
  }
  std::vector<std::string> complaints() { return check_case(read(), kOps); }

  void use_cotangent() {
    tensors_.erase("out.loss");
    tensors_["cotangent.y"] = torch::tensor({{1.0f, 0.0f}, {2.0f, -1.0f}});
    tensors_["grad.in.x"] = 4 * tensors_["in.x"] * tensors_["cotangent.y"];
    tensors_["grad.w.scale"] = (tensors_["in.x"].square() * tensors_["cotangent.y"]).sum().view({1});
  }

  TemporaryFolder folder_;
  TensorMap tensors_;
  StringMap metadata_{{"op", "scaled_square"}, {"params", R"({"a": 1})"}};
};

TEST_F(GoldenHarness, RightValuesAgree) {
  const GoldenCase golden = read();
  EXPECT_EQ(golden.name, "made_up");
  EXPECT_EQ(golden.params.at("a"), 1);
  EXPECT_EQ(golden.rtol, 1e-4);
  EXPECT_EQ(golden.atol, 1e-5);
  EXPECT_THAT(check_case(golden, kOps), IsEmpty());
}

TEST_F(GoldenHarness, WrongOutputIsReportedWithItsPlace) {
  tensors_["out.y"][1][0] += 0.01;
  EXPECT_THAT(complaints(), ElementsAre(AllOf(HasSubstr("out.y: 1 of 4"), HasSubstr("[1, 0]"))));
}

TEST_F(GoldenHarness, SmallOutputIsNotExcusedByALargeOne) {
  tensors_["in.x"] = torch::tensor({{1000.0f, 0.01f}});
  tensors_["out.y"] = torch::tensor({{2e6f, 2.5e-4f}});  // the second is 2e-4
  tensors_["out.loss"] = at::scalar_tensor(2e6f);
  tensors_.erase("grad.in.x");
  tensors_.erase("grad.w.scale");
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("[0, 1]")));
}

TEST_F(GoldenHarness, WrongGradientIsReported) {
  tensors_["grad.in.x"][0][1] *= 1.01;
  EXPECT_THAT(complaints(), ElementsAre(AllOf(HasSubstr("grad.in.x"), HasSubstr("[0, 1]"))));
}

TEST_F(GoldenHarness, GradientOfCotangents) {
  use_cotangent();
  EXPECT_THAT(complaints(), IsEmpty());
  tensors_["cotangent.y"][0][0] += 1;
  EXPECT_THAT(complaints(), SizeIs(2));
}

TEST_F(GoldenHarness, CotangentOfAnotherShapeIsReported) {
  use_cotangent();
  tensors_["cotangent.y"] = at::ones({2});
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("cotangent.y")));
}

TEST_F(GoldenHarness, TolerancesOfTheCaseAreUsed) {
  tensors_["out.y"] += 0.01;
  EXPECT_THAT(complaints(), SizeIs(1));
  metadata_["atol"] = "0.02";
  EXPECT_THAT(complaints(), IsEmpty());
}

TEST_F(GoldenHarness, ShapesHaveToAgree) {
  tensors_["out.y"] = tensors_["out.y"].unsqueeze(0);
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("shape [2, 2], expected [1, 2, 2]")));
}

TEST_F(GoldenHarness, NotANumberNeverAgrees) {
  tensors_["in.x"][0][0] = std::nanf("");
  EXPECT_THAT(complaints(), SizeIs(4));
}

TEST_F(GoldenHarness, MissingOutputIsReported) {
  tensors_["out.z"] = at::ones({1});
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("out.z: the op has no such output")));
}

TEST_F(GoldenHarness, GradientThatTheOpDoesNotOfferIsReported) {
  tensors_["in.other"] = at::ones({1});
  tensors_["grad.in.other"] = at::ones({1});
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("grad.in.other: the op offers no gradient")));
}

TEST_F(GoldenHarness, UnusedLeafHasZeroGradient) {
  tensors_["in.unused"] = at::ones({2});
  tensors_["grad.in.unused"] = at::zeros({2});
  EXPECT_THAT(complaints(), IsEmpty());
  tensors_["grad.in.unused"] = at::full({2}, 1e-9);
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("grad.in.unused: the outputs don't depend on it")));
}

TEST_F(GoldenHarness, UnknownOpFails) {
  metadata_["op"] = "cubed";
  EXPECT_THAT(complaints(),
              ElementsAre(AllOf(HasSubstr("'cubed' is not known"), HasSubstr("scaled_square"))));
}

TEST_F(GoldenHarness, OpThatThrowsFails) {
  metadata_["op"] = "throws";
  EXPECT_THAT(complaints(), ElementsAre(HasSubstr("the op's own complaint")));
}

TEST_F(GoldenHarness, FilesThatAreNoCaseAreRefused) {
  const auto refuses = [this](const std::string& what) {
    try {
      read();
      ADD_FAILURE() << "accepted; expected a complaint about " << what;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("made_up.safetensors"), HasSubstr(what)));
    }
  };
  const auto tensors = tensors_;
  const auto metadata = metadata_;
  metadata_.erase("op");
  refuses("'op' is missing");
  metadata_ = metadata;
  metadata_["params"] = "[1]";
  refuses("params");
  metadata_["params"] = "{";
  refuses("params");
  metadata_ = metadata;
  for (const char* text : {"", "-1", "nan", "1e-4x"}) {
    metadata_["rtol"] = text;
    refuses("rtol");
  }
  metadata_ = metadata;
  tensors_["output.y"] = at::ones({1});
  refuses("output.y");
  tensors_ = tensors;
  tensors_["grad.in.z"] = at::ones({1});
  refuses("grad.in.z");
  tensors_ = tensors;
  tensors_["grad.in.x"] = at::ones({1});
  refuses("another shape");
  tensors_ = tensors;
  tensors_.erase("out.loss");
  refuses("cotangent");
  tensors_ = {{"in.x", at::ones({1})}};
  refuses("expects no output");
}

TEST_F(GoldenHarness, FindsTheCasesOfAFolder) {
  EXPECT_THAT(find_cases(folder_.path()), IsEmpty());
  EXPECT_THAT(find_cases(folder_.path() / "absent"), IsEmpty());
  write_safetensors(folder_.path() / "b.safetensors", {});
  write_safetensors(folder_.path() / "a.safetensors", {});
  EXPECT_THAT(find_cases(folder_.path()),
              ElementsAre(folder_.path() / "a.safetensors", folder_.path() / "b.safetensors"));
}

}  // namespace
}  // namespace tessera::golden
