saesteer.piece("c/judge_score/0","AADAfwAAwH8AAAAAAADAfwAAAD8AAMB/AAAAAKuqqj4=");
