saesteer.piece("c/output_score/0","VB7zPsONCj8AT+s4OpHLPqdjbz8OaTY/rA4bPWUsGj8=");
