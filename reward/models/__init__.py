"""How each reward of `reward.spec.AnyReward` scores, by its `type`."""

from reward.models.density_ratio import density_ratio

SCORERS = {"density_ratio": density_ratio}
