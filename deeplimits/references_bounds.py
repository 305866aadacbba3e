"""Bibliography of collapse, similarity and interval bounds; joined in ``references``."""

from __future__ import annotations

#: In alphabetical order of the keys.
BOUNDS = r"""
@misc{aminian2021,
  author = {Aminian, Gholamali and Bu, Yuheng and Toni, Laura and Rodrigues, Miguel R. D. and
    Wornell, Gregory},
  title = {Characterizing the Generalization Error of {Gibbs} Algorithm with Symmetrized {KL}
    Information},
  year = {2021}, eprint = {2107.13656}, archiveprefix = {arXiv},
}

@article{berrett2019,
  author = {Berrett, Thomas B. and Samworth, Richard J. and Yuan, Ming},
  title = {Efficient Multivariate Entropy Estimation via $k$-Nearest Neighbour Distances},
  journal = {Annals of Statistics},
  volume = {47}, number = {1}, pages = {288--318}, year = {2019},
  eprint = {1606.00304}, archiveprefix = {arXiv},
}

@misc{bu2019,
  author = {Bu, Yuheng and Zou, Shaofeng and Veeravalli, Venugopal V.},
  title = {Tightening Mutual Information Based Bounds on Generalization Error},
  year = {2019}, eprint = {1901.04609}, archiveprefix = {arXiv},
}

@misc{butakov2023,
  author = {Butakov, Ivan and Tolmachev, Alexander and Malanchuk, Sofya and Neopryatnaya, Anna and
    Frolov, Alexey and Andreev, Kirill},
  title = {Information Bottleneck Analysis of Deep Neural Networks via Lossy Compression},
  year = {2023}, eprint = {2305.08013}, archiveprefix = {arXiv},
}

@inproceedings{czyz2023,
  author = {Czy{\.z}, Pawe{\l} and Grabowski, Frederic and Vogt, Julia E. and Beerenwinkel, Niko and
    Marx, Alexander},
  title = {Beyond Normal: On the Evaluation of Mutual Information Estimators},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}, eprint = {2306.11078}, archiveprefix = {arXiv},
}

@inproceedings{dang2023,
  author = {Dang, Hien and Tran, Tho and Osher, Stanley and Tran-The, Hung and Ho, Nhat
    and Nguyen, Tan},
  title = {Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data},
  booktitle = {International Conference on Machine Learning},
  year = {2023}, eprint = {2301.00437}, archiveprefix = {arXiv},
}

@article{efron1981,
  author = {Efron, Bradley and Stein, Charles},
  title = {The Jackknife Estimate of Variance},
  journal = {Annals of Statistics},
  volume = {9}, number = {3}, pages = {586--596}, year = {1981},
}

@inproceedings{goldfeld2019,
  author = {Goldfeld, Ziv and van den Berg, Ewout and Greenewald, Kristjan and Melnyk, Igor and
    Nguyen, Nam and Kingsbury, Brian and Polyanskiy, Yury},
  title = {Estimating Information Flow in Deep Neural Networks},
  booktitle = {International Conference on Machine Learning},
  year = {2019}, eprint = {1810.05728}, archiveprefix = {arXiv},
}

@misc{gowal2018,
  author = {Gowal, Sven and Dvijotham, Krishnamurthy and Stanforth, Robert and Bunel, Rudy
    and Qin, Chongli and Uesato, Jonathan and Arandjelovic, Relja and Mann, Timothy
    and Kohli, Pushmeet},
  title = {On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust
    Models},
  year = {2018}, eprint = {1810.12715}, archiveprefix = {arXiv},
}

@misc{he2024,
  author = {He, Haiyun and Yu, Christina Lee and Goldfeld, Ziv},
  title = {Information-Theoretic Generalization Bounds for Deep Neural Networks},
  year = {2024}, eprint = {2404.03176}, archiveprefix = {arXiv},
}

@inproceedings{kornblith2019,
  author = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  title = {Similarity of Neural Network Representations Revisited},
  booktitle = {International Conference on Machine Learning},
  year = {2019}, eprint = {1905.00414}, archiveprefix = {arXiv},
}

@article{kozachenko1987,
  author = {Kozachenko, L. F. and Leonenko, N. N.},
  title = {Sample Estimate of the Entropy of a Random Vector},
  journal = {Problems of Information Transmission},
  volume = {23}, number = {2}, pages = {95--101}, year = {1987},
}

@article{kraskov2004,
  author = {Kraskov, Alexander and St{\"o}gbauer, Harald and Grassberger, Peter},
  title = {Estimating Mutual Information},
  journal = {Physical Review E},
  volume = {69}, pages = {066138}, year = {2004},
  eprint = {cond-mat/0305641}, archiveprefix = {arXiv},
}

@misc{li2015,
  author = {Li, Yixuan and Yosinski, Jason and Clune, Jeff and Lipson, Hod and Hopcroft, John},
  title = {Convergent Learning: Do Different Neural Networks Learn the Same Representations?},
  year = {2015}, eprint = {1511.07543}, archiveprefix = {arXiv},
}

@inproceedings{morcos2018,
  author = {Morcos, Ari S. and Raghu, Maithra and Bengio, Samy},
  title = {Insights on Representational Similarity in Neural Networks with Canonical Correlation},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {31}, year = {2018}, eprint = {1806.05759}, archiveprefix = {arXiv},
}

@inproceedings{moschella2023,
  author = {Moschella, Luca and Maiorca, Valentino and Fumero, Marco and Norelli, Antonio
    and Locatello, Francesco and Rodol{\`a}, Emanuele},
  title = {Relative Representations Enable Zero-Shot Latent Space Communication},
  booktitle = {International Conference on Learning Representations},
  year = {2023}, eprint = {2209.15430}, archiveprefix = {arXiv},
}

@inproceedings{nguyen2021,
  author = {Nguyen, Thao and Raghu, Maithra and Kornblith, Simon},
  title = {Do Wide and Deep Networks Learn the Same Things? Uncovering How Neural Network
    Representations Vary with Width and Depth},
  booktitle = {International Conference on Learning Representations},
  year = {2021}, eprint = {2010.15327}, archiveprefix = {arXiv},
}

@misc{ordentlich2020,
  author = {Ordentlich, Or and Polyanskiy, Yury},
  title = {Strong Data Processing Constant Is Achieved by Binary Inputs},
  year = {2020}, eprint = {2010.01987}, archiveprefix = {arXiv},
}

@article{papyan2020,
  author = {Papyan, Vardan and Han, X. Y. and Donoho, David L.},
  title = {Prevalence of Neural Collapse During the Terminal Phase of Deep Learning Training},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {117}, number = {40}, pages = {24652--24663}, year = {2020},
  doi = {10.1073/pnas.2015509117}, eprint = {2008.08186}, archiveprefix = {arXiv},
}

@inproceedings{raghu2017,
  author = {Raghu, Maithra and Gilmer, Justin and Yosinski, Jason and Sohl-Dickstein, Jascha},
  title = {{SVCCA}: Singular Vector Canonical Correlation Analysis for Deep Learning Dynamics and
    Interpretability},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {30}, year = {2017}, eprint = {1706.05806}, archiveprefix = {arXiv},
}

@article{ross2014,
  author = {Ross, Brian C.},
  title = {Mutual Information between Discrete and Continuous Data Sets},
  journal = {PLoS ONE},
  volume = {9}, number = {2}, pages = {e87357}, year = {2014},
}

@inproceedings{shi2021,
  author = {Shi, Zhouxing and Wang, Yihan and Zhang, Huan and Yi, Jinfeng and Hsieh, Cho-Jui},
  title = {Fast Certified Robust Training with Short Warmup},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}, eprint = {2103.17268}, archiveprefix = {arXiv},
}

@misc{steinke2020,
  author = {Steinke, Thomas and Zakynthinou, Lydia},
  title = {Reasoning About Generalization via Conditional Mutual Information},
  year = {2020}, eprint = {2001.09025}, archiveprefix = {arXiv},
}

@misc{subramaniam2024,
  author = {Subramaniam, Vighnesh and Mayo, David and Conwell, Colin and Poggio, Tomaso
    and Katz, Boris and Cheung, Brian and Barbu, Andrei},
  title = {Training the Untrainable: Introducing Inductive Bias via Representational Alignment},
  year = {2024}, eprint = {2410.20035}, archiveprefix = {arXiv},
}

@inproceedings{sukenik2024,
  author = {S{\'u}ken{\'i}k, Peter and Lampert, Christoph and Mondelli, Marco},
  title = {Neural Collapse vs. Low-Rank Bias: Is Deep Neural Collapse Really Optimal?},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024}, eprint = {2405.14468}, archiveprefix = {arXiv},
}

@article{szekely2014,
  author = {Sz{\'e}kely, G{\'a}bor J. and Rizzo, Maria L.},
  title = {Partial Distance Correlation with Methods for Dissimilarities},
  journal = {Annals of Statistics},
  year = {2014}, eprint = {1310.2973}, archiveprefix = {arXiv},
}

@inproceedings{wang2023,
  author = {Wang, Ziqiao and Mao, Yongyi},
  title = {Tighter Information-Theoretic Generalization Bounds from Supersamples},
  booktitle = {International Conference on Machine Learning},
  year = {2023}, eprint = {2302.02432}, archiveprefix = {arXiv},
}

@inproceedings{williams2021,
  author = {Williams, Alex H. and Kunz, Erin and Kornblith, Simon and Linderman, Scott W.},
  title = {Generalized Shape Metrics on Neural Representations},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}, eprint = {2110.14739}, archiveprefix = {arXiv},
}

@inproceedings{xu2017,
  author = {Xu, Aolin and Raginsky, Maxim},
  title = {Information-Theoretic Analysis of Generalization Capability of Learning Algorithms},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2017}, eprint = {1705.07809}, archiveprefix = {arXiv},
}
"""
