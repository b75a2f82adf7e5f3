#include "data/separated_values.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<TableRow> rows_of(std::string_view text, char separator = ',') {
  std::vector<TableRow> rows;
  read_rows(text, separator, [&](const TableRow& row) { rows.push_back(row); });
  return rows;
}

/// "LINE: FIELD|FIELD", with "!" in front of a broken row.
std::vector<std::string> written(std::string_view text, char separator = ',') {
  std::vector<std::string> lines;
  for (const TableRow& row : rows_of(text, separator)) {
    std::string line = fmt::format("{}{}:", row.broken ? "!" : "", row.line);
    for (const std::string& field : row.fields) line += field + "|";
    lines.push_back(line);
  }
  return lines;
}

TEST(SeparatedValues, RowsAreThoseOfRfc4180) {
  EXPECT_THAT(written("a,b\nc,d\n"), ElementsAre("1:a|b|", "2:c|d|"));
  EXPECT_THAT(written("a,b\r\nc,d"), ElementsAre("1:a|b|", "2:c|d|")) << "the last line may lack its end";
  EXPECT_THAT(written("\"a, b\",\"say \"\"hi\"\"\"\nc,\n"), ElementsAre("1:a, b|say \"hi\"|", "2:c||"));
  EXPECT_THAT(written("a,\"two\nlines\"\r\n\nb,c\n"), ElementsAre("1:a|two\nlines|", "4:b|c|"))
      << "a row is called by its first line";
  EXPECT_THAT(written("a,\" kept \"\n b , c\t\n"), ElementsAre("1:a| kept |", "2:b|c|"));
  EXPECT_THAT(written("a\tb, c\n\"d\"\te\n", '\t'), ElementsAre("1:a|b, c|", "2:d|e|"));
  EXPECT_THAT(written("\"\",\n,,\n   \n\r\na\n"), ElementsAre("5:a|")) << "rows of nothing are none";
  EXPECT_THAT(written(""), IsEmpty());
  EXPECT_THAT(written("a,b\rc,d\r"), ElementsAre("1:a|b|", "1:c|d|"));
}

TEST(SeparatedValues, OtherQuotesAreLettersOfTheirLineAlone) {
  EXPECT_THAT(written("a,a 12\" disc\nb,\"Quick!\" she said\nc,\"d\"\n"),
              ElementsAre("1:a|a 12\" disc|", "2:b|\"Quick!\" she said|", "3:c|d|"));
  EXPECT_THAT(written("a,\"never closed\nb,c\n"), ElementsAre("1:a|\"never closed|", "2:b|c|"));
  EXPECT_THAT(written("a,b\n\"c, d\ne,f\n"), ElementsAre("1:a|b|", "2:\"c|d|", "3:e|f|"));
  EXPECT_THAT(written("a,b\nc,\"d, e\nf,g\n"), ElementsAre("1:a|b|", "!2:c|\"d|e|", "3:f|g|"))
      << "whose separators are whose, nobody knows";
}

TEST(SeparatedValues, AStrayQuoteSwallowsNoRows) {
  std::string text = "a,\"stray\n";
  for (int i = 0; i < 300; ++i) text += fmt::format("{},x\n", i);
  text += "b,ends in a quote\"\nc,\"quoted\"\n";
  const auto rows = rows_of(text);
  ASSERT_EQ(rows.size(), 303u);
  EXPECT_EQ(rows[0].fields[1], "\"stray");
  EXPECT_EQ(rows[302].fields[1], "quoted");
  EXPECT_EQ(rows[302].line, 303);
}

/// Each line opens what the next one seems to close: read again and again from every one, it would take
/// hours.
TEST(SeparatedValues, ManyOpenQuotesTakeNoLongerThanTheirLines) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "\"a\n\"\"b\n";
  EXPECT_EQ(rows_of(text).size(), 400'000u);
}

TEST(SeparatedValues, TheFirstLineTellsWhatSeparates) {
  EXPECT_EQ(separator_of("image,caption\n"), ',');
  EXPECT_EQ(separator_of("a;b.jpg\tA dog, running\n"), '\t');
  EXPECT_EQ(separator_of("image;caption\na,b\t\n"), ';');
  EXPECT_EQ(separator_of("image_name| comment_number| comment\n"), '|');
  EXPECT_EQ(separator_of("\"a;b.jpg\",A dog; running\n"), ',');
  EXPECT_EQ(separator_of("alone"), ',');
  EXPECT_EQ(separator_of(""), ',');
}

}  // namespace
}  // namespace tessera::data
