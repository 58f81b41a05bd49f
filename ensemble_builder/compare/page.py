from flexquant.ensemble_builder.compare.contents import Comparison


def page(comparison: Comparison) -> str:
    return comparison.model
