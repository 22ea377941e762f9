from __future__ import annotations

from llmd_runbook.analysis.selector_overlaps import PodTemplate, Selecting, overlaps, own_labels

SHARED = {"llm-d.ai/inferenceServing": "true"}
ONE, THREE = own_labels("google/gemma-2b-it", SHARED), own_labels("Qwen/Qwen2.5-3B-Instruct", SHARED)
PODS = [PodTemplate("Deployment a", "Pattern 1", ONE), PodTemplate("Deployment b", "Pattern 3", THREE)]


def test_labels_of_their_own_keep_patterns_apart() -> None:
    selecting = [
        Selecting("InferencePool p", "Pattern 1", {"matchLabels": ONE}),
        Selecting("Deployment b", "Pattern 3", {"matchLabels": THREE}),
    ]
    assert overlaps(selecting, PODS) == []


def test_a_shared_label_reaches_the_other_pattern_in_both_directions() -> None:
    shared = {"matchLabels": SHARED}
    selecting = [
        Selecting("InferencePool p1", "Pattern 1", shared),
        Selecting("Deployment b", "Pattern 3", shared),
        Selecting("Deployment b", "Pattern 3", shared),
    ]
    assert overlaps(selecting, PODS) == [
        "Deployment b (Pattern 3) selects the pods of Deployment a (Pattern 1)",
        "InferencePool p1 (Pattern 1) selects the pods of Deployment b (Pattern 3)",
    ]


def test_expressions_count_too() -> None:
    expression = {"key": "llm-d.ai/model", "operator": "NotIn", "values": ["gemma-2b-it"]}
    found = overlaps([Selecting("Deployment x", "another", {"matchExpressions": [expression]})], PODS)
    assert found == ["Deployment x (another) selects the pods of Deployment b (Pattern 3)"]


def test_a_label_is_at_most_63_characters() -> None:
    assert len(own_labels("org/" + "m" * 80, {})["llm-d.ai/model"]) == 63
