"""Scores for a tenant: names become models, models become engines, and the scoring process scores."""

from __future__ import annotations

from dataclasses import dataclass

from reward.errors import Invalid as Refused
from reward.shapes import GraderRun, Shape
from reward.spec import AnyReward, Endpoint, ScoreList, ScoreOrder, ScoreRequest
from service import registry, reward_models
from service.db import Database
from service.errors import Invalid
from service.serving.engines import Engines, Servable
from service.serving.facts import facts
from service.serving.scoring import Scoring
from service.settings import Settings


@dataclass(frozen=True)
class Scores:
    """Thread-safe; `score` blocks until the engines are there and have answered."""

    settings: Settings
    database: Database
    engines: Engines
    scoring: Scoring

    def score(self, request: ScoreRequest, tenant: str) -> ScoreList:
        """Score answers. Raises NotFound or Invalid with the field that is wrong, Unavailable, Broken."""
        with self.database.snapshot() as db:
            found = reward_models.resolved(db, request.model, tenant=tenant, param="model")
        reward_models.check_endpoints(found.reward, self.settings)
        order = ScoreOrder(
            request=request.model_copy(update={"model": found.reward}),
            endpoints=self._endpoints(found.reward, tenant),
            services={name: Endpoint(url=url, name=name) for name, url in self.settings.reward_endpoints.items()},
        )
        scored = self.scoring.score(order)
        if found.id is None:
            return scored
        provenance = scored.provenance.model_copy(update={"reward_model": found.id})
        return scored.model_copy(update={"model": request.model, "provenance": provenance})

    def _endpoints(self, reward: AnyReward, tenant: str) -> dict[str, Endpoint]:
        servables = self._servables(reward, tenant)
        bases, most = {servable.base for servable, _ in servables}, self.settings.engine.max_engines
        if len(bases) > most:
            raise Invalid(f"this reward needs {len(bases)} engines at once; the service runs {most}", param="model")
        found = {}
        for servable, digest in servables:
            known = facts(servable, digest, self.settings.engine)
            found[servable.id] = self.engines.endpoint(servable).model_copy(update={"facts": known})
        return found

    def _servables(self, reward: AnyReward, tenant: str) -> list[tuple[Servable, str]]:
        """Each model that the reward names, with the digest of the weights it is or goes on."""
        with self.database.snapshot() as db:
            models = [
                registry.find(db, id_, tenant=tenant, param=f"model.{field}") for field, id_ in reward.models().items()
            ]
            return [(registry.servable(db, model), registry.weights_of(db, model).digest or "") for model in models]


def asked_by(shape: Shape | GraderRun) -> ScoreRequest:
    """Somebody else's body as our request. Raises Invalid."""
    try:
        return shape.asked()
    except Refused as refusal:
        raise Invalid(refusal.message, param=refusal.param) from refusal
