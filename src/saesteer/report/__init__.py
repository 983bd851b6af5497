"""What readers get of results besides figures, a room or module a trade: `recommend`, `exports`, `site`, `evaluation`, `upload`; `terminal`
for the command steer, `headline` and `method_report` for the tables in Markdown, `reference` for generated pages of the documentation."""
