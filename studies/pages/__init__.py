"""The pages' generated tables and figures: results of finished experiments lie in docs/, and are pasted between markers of the pages."""
