"""How well edits hold: metrics of editors, edits batch after batch, presets and proposed layers."""
