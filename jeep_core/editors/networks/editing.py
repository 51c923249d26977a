"""An edit by a trained network, the same for all such editors but for how pairs are summed."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome, LayerUpdate
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.storage import load_network
from jeep_core.values.gradient_pairs import batches, gradient_pairs

BATCH_ROWS = 32


def apply_network(context: EditContext, editor: str, hparams: HypernetworkHParams) -> EditorOutcome:
    """Write the layers of ``hparams`` into the view, from the gradients of all facts.

    Gradients of all layers are taken on the version as it was given.

    Raises:
        InvalidHParams: there is no such network.
        NumericalError: a layer's system is singular.
        Cancelled: checked between batches of facts and between layers.
    """
    view = context.view
    base = view.base
    network = load_network(base, editor, hparams, context.hypernetworks)
    rows = [rows[0] for fact in context.facts for rows in fact.contexts]
    size = min(context.batch_facts or BATCH_ROWS, BATCH_ROWS)
    sums = {layer: network.sum(layer, hparams.step_scale) for layer in hparams.layers}
    seen = 0
    for index in batches(rows, size):
        context.report("gradients", seen, len(rows))
        for layer, pairs in gradient_pairs(view, [rows[i] for i in index], hparams.layers).items():
            u, delta = pairs
            # one network for all layers, beside the model's ends
            sums[layer].add((u.to(base.device), delta.to(base.device)))
        seen += len(index)
    outcome = EditorOutcome(inputs={"hypernetwork": network.sha256})
    for done, layer in enumerate(hparams.layers):
        context.report("write", done, len(hparams.layers))
        name, update = base.family.weight_name(layer), sums[layer].update()
        outcome.delta.updates[name] = update
        view.update(name, update)
        weight = base.model.get_parameter(name).double().norm()
        relative = float(update.matrix().norm()) / float(weight)  # on two devices, perhaps
        outcome.layers.append(LayerUpdate(name, layer, "mlp", relative))
    context.report("write", len(hparams.layers), len(hparams.layers))
    return outcome
