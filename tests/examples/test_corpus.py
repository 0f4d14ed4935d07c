"""The demo's grammar: varied, balanced, and exact about its own words."""

from __future__ import annotations

from examples.demo import corpus


def test_the_corpus_holds_several_thousand_distinct_sentences():
    rows = corpus.base_corpus(6000)
    sentences = {sentence for _, review in rows for sentence in review.split(". ")}
    assert len(sentences) > 5000
    assert len({request for request, _ in rows}) > 3000


def test_as_many_reviews_praise_as_blame():
    tones = [corpus.tone(review) for _, review in corpus.base_corpus(6000)]
    assert abs(sum(tone > 0 for tone in tones) / 6000 - 0.5) < 0.01
    assert 0 not in tones


def test_no_word_both_praises_and_blames_and_neither_is_part_of_a_frame():
    assert not corpus.FAVOURABLE & corpus.UNFAVOURABLE
    frames = corpus.words(" ".join((*corpus.FACTS, *corpus.VERDICTS, *corpus.REQUESTS, *corpus.ASPECTS)))
    slots = set(corpus.OPINIONS) | set(corpus.CIRCUMSTANCES)
    assert not (set(frames) - slots) & (corpus.FAVOURABLE | corpus.UNFAVOURABLE)


def test_a_pair_reviews_one_film_once_well_and_once_badly():
    pairs = corpus.preference_pairs(500)
    assert all(corpus.tone(pair.chosen) == 3 and corpus.tone(pair.rejected) == -3 for pair in pairs)
    assert all(corpus.well_formed(pair.chosen) and corpus.well_formed(pair.rejected) for pair in pairs)


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others():
    assert corpus.preference_pairs(5) == corpus.preference_pairs(5)
    assert corpus.preference_pairs(5) != corpus.preference_pairs(5, seed=2)


def test_tone_counts_praise_less_blame():
    assert corpus.tone("The plot is warm, but the cast is dull and lazy.") == -1
    assert corpus.tone("It runs for two hours.") == 0


def test_a_review_is_well_formed_only_if_the_grammar_could_have_written_it():
    review = corpus.base_corpus(20)[18][1]
    assert corpus.well_formed(review)
    assert not corpus.well_formed(review[:-1])
    assert not corpus.well_formed(review + " " + review)
    assert not corpus.well_formed("The plot is warm, and the cast is red. I loved every minute of it.")


def test_a_sentiment_word_is_known_with_its_space_and_punctuation():
    assert corpus.is_sentiment(" Brilliant,")
    assert not corpus.is_sentiment(" plot")
