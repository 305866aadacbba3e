r"""The bibliography: one BibTeX text and, from it, ``ENTRIES`` (key -> BibTeX).

Keys are ``authorYEAR``. Entries on arXiv carry ``eprint``, by which docstrings are matched.
"""

from __future__ import annotations

import re

from deeplimits.references_bounds import BOUNDS
from deeplimits.references_statmech import STATMECH

_FOUNDATION = r"""
@software{deeplimits,
  title = {deeplimits: exact limits of deep networks, held against finite networks},
  author = {{The deeplimits developers}},
  version = {0.1.0},
  year = {2026},
  license = {Apache-2.0},
}

@article{amit1985,
  author = {Amit, Daniel J. and Gutfreund, Hanoch and Sompolinsky, H.},
  title = {Storing Infinite Numbers of Patterns in a Spin-Glass Model of Neural Networks},
  journal = {Physical Review Letters},
  volume = {55}, number = {14}, pages = {1530--1533}, year = {1985},
  doi = {10.1103/PhysRevLett.55.1530},
}

@article{amit1987,
  author = {Amit, Daniel J. and Gutfreund, Hanoch and Sompolinsky, H.},
  title = {Statistical Mechanics of Neural Networks Near Saturation},
  journal = {Annals of Physics},
  volume = {173}, number = {1}, pages = {30--67}, year = {1987},
  doi = {10.1016/0003-4916(87)90092-3},
}

@inproceedings{arora2019,
  author = {Arora, Sanjeev and Du, Simon S. and Hu, Wei and Li, Zhiyuan and Salakhutdinov, Ruslan
    and Wang, Ruosong},
  title = {On Exact Computation with an Infinitely Wide Neural Net},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32}, year = {2019}, eprint = {1904.11955}, archiveprefix = {arXiv},
}

@inproceedings{arora2019b,
  author = {Arora, Sanjeev and Du, Simon S. and Hu, Wei and Li, Zhiyuan and Wang, Ruosong},
  title = {Fine-Grained Analysis of Optimization and Generalization for Overparameterized Two-Layer
    Neural Networks},
  booktitle = {International Conference on Machine Learning},
  year = {2019}, eprint = {1901.08584}, archiveprefix = {arXiv},
}

@inproceedings{bartlett2017,
  author = {Bartlett, Peter L. and Foster, Dylan J. and Telgarsky, Matus},
  title = {Spectrally-Normalized Margin Bounds for Neural Networks},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2017}, eprint = {1706.08498}, archiveprefix = {arXiv},
}

@inproceedings{boopathy2024,
  author = {Boopathy, Akhilan and Yue, William and Hwang, Jaedong and Iyer, Abhiram and Fiete, Ila},
  title = {Towards Exact Computation of Inductive Bias},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year = {2024}, eprint = {2406.15941}, archiveprefix = {arXiv},
}

@inproceedings{bordelon2020,
  author = {Bordelon, Blake and Canatar, Abdulkadir and Pehlevan, Cengiz},
  title = {Spectrum Dependent Learning Curves in Kernel Regression and Wide Neural Networks},
  booktitle = {International Conference on Machine Learning},
  year = {2020}, eprint = {2002.02561}, archiveprefix = {arXiv},
}

@inproceedings{cho2009,
  author = {Cho, Youngmin and Saul, Lawrence K.},
  title = {Kernel Methods for Deep Learning},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {22}, pages = {342--350}, year = {2009},
}

@article{cortes2012,
  author = {Cortes, Corinna and Mohri, Mehryar and Rostamizadeh, Afshin},
  title = {Algorithms for Learning Kernels Based on Centered Alignment},
  journal = {Journal of Machine Learning Research},
  volume = {13}, year = {2012}, eprint = {1203.0550}, archiveprefix = {arXiv},
}

@inproceedings{daniely2016,
  author = {Daniely, Amit and Frostig, Roy and Singer, Yoram},
  title = {Toward Deeper Understanding of Neural Networks: The Power of Initialization and a Dual
    View on Expressivity},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {29}, year = {2016}, eprint = {1602.05897}, archiveprefix = {arXiv},
}

@article{efron1987,
  author = {Efron, Bradley},
  title = {Better Bootstrap Confidence Intervals},
  journal = {Journal of the American Statistical Association},
  volume = {82}, number = {397}, pages = {171--185}, year = {1987},
}

@article{flyvbjerg1989,
  author = {Flyvbjerg, H. and Petersen, H. G.},
  title = {Error Estimates on Averages of Correlated Data},
  journal = {The Journal of Chemical Physics},
  volume = {91}, number = {1}, pages = {461--466}, year = {1989},
}

@inproceedings{golowich2018,
  author = {Golowich, Noah and Rakhlin, Alexander and Shamir, Ohad},
  title = {Size-Independent Sample Complexity of Neural Networks},
  booktitle = {Conference on Learning Theory},
  year = {2018}, eprint = {1712.06541}, archiveprefix = {arXiv},
}

@misc{hendrycks2016,
  author = {Hendrycks, Dan and Gimpel, Kevin},
  title = {Gaussian Error Linear Units ({GELUs})},
  year = {2016}, eprint = {1606.08415}, archiveprefix = {arXiv},
}

@article{hopfield1982,
  author = {Hopfield, J. J.},
  title = {Neural Networks and Physical Systems with Emergent Collective Computational Abilities},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {79}, number = {8}, pages = {2554--2558}, year = {1982},
  doi = {10.1073/pnas.79.8.2554},
}

@inproceedings{jacot2018,
  author = {Jacot, Arthur and Gabriel, Franck and Hongler, Cl{\'e}ment},
  title = {Neural Tangent Kernel: Convergence and Generalization in Neural Networks},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {31}, year = {2018}, eprint = {1806.07572}, archiveprefix = {arXiv},
}

@article{lee2011,
  author = {Lee, R. M. and Conduit, G. J. and Nemec, N. and L{\'o}pez R{\'i}os, P. and
    Drummond, N. D.},
  title = {Strategies for Improving the Efficiency of Quantum {Monte} {Carlo} Calculations},
  journal = {Physical Review E},
  volume = {83}, pages = {066706}, year = {2011},
}

@inproceedings{lee2018,
  author = {Lee, Jaehoon and Bahri, Yasaman and Novak, Roman and Schoenholz, Samuel S. and
    Pennington, Jeffrey and Sohl-Dickstein, Jascha},
  title = {Deep Neural Networks as {Gaussian} Processes},
  booktitle = {International Conference on Learning Representations},
  year = {2018}, eprint = {1711.00165}, archiveprefix = {arXiv},
}

@inproceedings{lee2019,
  author = {Lee, Jaehoon and Xiao, Lechao and Schoenholz, Samuel S. and Bahri, Yasaman and
    Novak, Roman and Sohl-Dickstein, Jascha and Pennington, Jeffrey},
  title = {Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32}, year = {2019}, eprint = {1902.06720}, archiveprefix = {arXiv},
}

@inproceedings{matthews2018,
  author = {Matthews, Alexander G. de G. and Rowland, Mark and Hron, Jiri and Turner, Richard E. and
    Ghahramani, Zoubin},
  title = {{Gaussian} Process Behaviour in Wide Deep Neural Networks},
  booktitle = {International Conference on Learning Representations},
  year = {2018}, eprint = {1804.11271}, archiveprefix = {arXiv},
}

@misc{mingard2019,
  author = {Mingard, Chris and Skalse, Joar and Valle-P{\'e}rez, Guillermo and
    Mart{\'i}nez-Rubio, David and Mikulik, Vladimir and Louis, Ard A.},
  title = {Neural Networks Are a Priori Biased Towards {Boolean} Functions with Low Entropy},
  year = {2019}, eprint = {1909.11522}, archiveprefix = {arXiv},
}

@book{neal1996,
  author = {Neal, Radford M.},
  title = {Bayesian Learning for Neural Networks},
  series = {Lecture Notes in Statistics}, volume = {118},
  publisher = {Springer}, year = {1996},
}

@inproceedings{novak2020,
  author = {Novak, Roman and Xiao, Lechao and Hron, Jiri and Lee, Jaehoon and Alemi, Alexander A.
    and Sohl-Dickstein, Jascha and Schoenholz, Samuel S.},
  title = {Neural Tangents: Fast and Easy Infinite Neural Networks in {Python}},
  booktitle = {International Conference on Learning Representations},
  year = {2020}, eprint = {1912.02803}, archiveprefix = {arXiv},
}

@inproceedings{novak2022,
  author = {Novak, Roman and Sohl-Dickstein, Jascha and Schoenholz, Samuel S.},
  title = {Fast Finite Width Neural Tangent Kernel},
  booktitle = {International Conference on Machine Learning},
  year = {2022}, eprint = {2206.08720}, archiveprefix = {arXiv},
}

@inproceedings{poole2016,
  author = {Poole, Ben and Lahiri, Subhaneil and Raghu, Maithra and Sohl-Dickstein, Jascha and
    Ganguli, Surya},
  title = {Exponential Expressivity in Deep Neural Networks Through Transient Chaos},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {29}, year = {2016}, eprint = {1606.05340}, archiveprefix = {arXiv},
}

@article{radhakrishnan2023,
  author = {Radhakrishnan, Adityanarayanan and Belkin, Mikhail and Uhler, Caroline},
  title = {Wide and Deep Neural Networks Achieve Consistency for Classification},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {120}, number = {14}, pages = {e2208779120}, year = {2023},
  doi = {10.1073/pnas.2208779120}, eprint = {2204.14126}, archiveprefix = {arXiv},
}

@inproceedings{ramsauer2021,
  author = {Ramsauer, Hubert and Sch{\"a}fl, Bernhard and Lehner, Johannes and Seidl, Philipp and
    Widrich, Michael and Adler, Thomas and Gruber, Lukas and Holzleitner, Markus and
    Pavlovi{\'c}, Milena and Sandve, Geir Kjetil and Greiff, Victor and Kreil, David and
    Kopp, Michael and Klambauer, G{\"u}nter and Brandstetter, Johannes and Hochreiter, Sepp},
  title = {Hopfield Networks is All You Need},
  booktitle = {International Conference on Learning Representations},
  year = {2021}, eprint = {2008.02217}, archiveprefix = {arXiv},
}

@book{rasmussen2006,
  author = {Rasmussen, Carl Edward and Williams, Christopher K. I.},
  title = {{Gaussian} Processes for Machine Learning},
  publisher = {MIT Press}, year = {2006},
}

@book{roberts2022,
  author = {Roberts, Daniel A. and Yaida, Sho and Hanin, Boris},
  title = {The Principles of Deep Learning Theory},
  publisher = {Cambridge University Press}, year = {2022},
  eprint = {2106.10165}, archiveprefix = {arXiv},
}

@inproceedings{schoenholz2017,
  author = {Schoenholz, Samuel S. and Gilmer, Justin and Ganguli, Surya and Sohl-Dickstein, Jascha},
  title = {Deep Information Propagation},
  booktitle = {International Conference on Learning Representations},
  year = {2017}, eprint = {1611.01232}, archiveprefix = {arXiv},
}

@article{sidak1967,
  author = {{\v{S}}id{\'a}k, Zbyn{\v{e}}k},
  title = {Rectangular Confidence Regions for the Means of Multivariate Normal Distributions},
  journal = {Journal of the American Statistical Association},
  volume = {62}, number = {318}, pages = {626--633}, year = {1967},
}

@article{simon2023,
  author = {Simon, James B. and Dickens, Madeline and Karkada, Dhruva and DeWeese, Michael R.},
  title = {The Eigenlearning Framework: A Conservation Law Perspective on Kernel Regression and Wide
    Neural Networks},
  journal = {Transactions on Machine Learning Research},
  year = {2023}, eprint = {2110.03922}, archiveprefix = {arXiv},
}

@misc{sohldickstein2020,
  author = {Sohl-Dickstein, Jascha and Novak, Roman and Schoenholz, Samuel S. and Lee, Jaehoon},
  title = {On the Infinite Width Limit of Neural Networks with a Standard Parameterization},
  year = {2020}, eprint = {2001.07301}, archiveprefix = {arXiv},
}

@incollection{sokal1997,
  author = {Sokal, Alan},
  title = {{Monte} {Carlo} Methods in Statistical Mechanics: Foundations and New Algorithms},
  booktitle = {Functional Integration: Basics and Applications},
  publisher = {Springer}, pages = {131--192}, year = {1997},
  doi = {10.1007/978-1-4899-0319-8_6},
}

@inproceedings{tsuchida2018,
  author = {Tsuchida, Russell and Roosta-Khorasani, Farbod and Gallagher, Marcus},
  title = {Invariance of Weight Distributions in Rectified {MLPs}},
  booktitle = {International Conference on Machine Learning},
  pages = {4995--5004}, year = {2018}, eprint = {1711.09090}, archiveprefix = {arXiv},
}

@misc{uci,
  author = {Kelly, Markelle and Longjohn, Rachel and Nottingham, Kolby},
  title = {The {UCI} Machine Learning Repository},
  url = {https://archive.ics.uci.edu},
}

@inproceedings{valleperez2019,
  author = {Valle-P{\'e}rez, Guillermo and Camargo, Chico Q. and Louis, Ard A.},
  title = {Deep Learning Generalizes Because the Parameter-Function Map Is Biased Towards Simple
    Functions},
  booktitle = {International Conference on Learning Representations},
  year = {2019}, eprint = {1805.08522}, archiveprefix = {arXiv},
}

@inproceedings{williams1996,
  author = {Williams, Christopher K. I.},
  title = {Computing with Infinite Networks},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {9}, pages = {295--301}, year = {1996},
}

@article{wolff2004,
  author = {Wolff, Ulli},
  title = {{Monte} {Carlo} Errors with Less Errors},
  journal = {Computer Physics Communications},
  volume = {156}, number = {2}, pages = {143--153}, year = {2004},
  doi = {10.1016/S0010-4655(03)00467-3}, eprint = {hep-lat/0306017}, archiveprefix = {arXiv},
}

@misc{xiao2017,
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  title = {{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  year = {2017}, eprint = {1708.07747}, archiveprefix = {arXiv},
}

@misc{yang2020,
  author = {Yang, Greg},
  title = {Tensor Programs {II}: Neural Tangent Kernel for Any Architecture},
  year = {2020}, eprint = {2006.14548}, archiveprefix = {arXiv},
}
"""
BIBTEX = _FOUNDATION + BOUNDS + STATMECH

#: BibTeX entry of every key, in the order of the text.
ENTRIES: dict[str, str] = {
    re.match(r"@\w+\{(\w+),", entry).group(1): entry.strip()  # type: ignore[union-attr]
    for entry in re.split(r"\n\n(?=@)", BIBTEX.strip())
}

#: Key of every arXiv identifier.
ARXIV: dict[str, str] = {
    found.group(1): key
    for key, entry in ENTRIES.items()
    if (found := re.search(r"eprint = \{([^}]+)\}", entry))
}
