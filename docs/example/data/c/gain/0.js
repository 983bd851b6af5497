saesteer.piece("c/gain/0","AADAfwAAwH8AAAAAAADAfwAAAD8AAMB/AAAAAKuqqj4=");
