"""What readers see besides figures: tables of the README and documentation, the report on methods, exports."""
