saesteer.piece("c/output_score/0","Rh7zPq+NCj8MT+s4Q5HLPrRjbz8MaTY/sg4bPVksGj8=");
