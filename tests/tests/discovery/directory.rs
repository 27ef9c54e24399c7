//! Files in a directory.

use std::fs;

use anyhow::{Result, ensure};
use xlb_tests::lab::{Family, Topology};
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::xlb::{Agent, Discovery, Forward};
use xlb_tests::{need_root, scratch};

use super::{discovery, origins};

const V4: Family = Family::V4;

#[test]
fn files_are_followed_and_wrong_ones_keep_their_last_word() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let files = scratch::directory()?;
    let directory = files.path().join("web");
    fs::create_dir(&directory)?;
    let put = |name: &str, text: String| -> Result<()> {
        let new = directory.join(format!(".{name}"));
        fs::write(&new, text)?;
        Ok(fs::rename(&new, directory.join(name))?)
    };
    let toml = |number| format!("backend = [{{ address = \"{}\" }}]\n", scene.address(V4, number));
    put("a.toml", toml(1))?;
    let mut settings = scene.settings(V4, 1);
    settings.services.truncate(1);
    let (kind, path) = ("directory".into(), Some(directory.clone()));
    settings.services[0].discovery = Some(Discovery { kind, path, ..Discovery::default() });
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(V4, &["b1", "b2"])?;
    let expected = [(scene.address(V4, 0), "config"), (scene.address(V4, 1), "directory")];
    let expected = expected.map(|(address, origin)| (address, origin.to_owned()));
    ensure!(origins(&agent, WEB)? == expected, "{:?}", origins(&agent, WEB)?);

    put("b.json", format!("{{\"backend\": [{{\"address\": \"{}\"}}]}}", scene.address(V4, 2)))?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    put("a.toml", "backend = [{ adress = 1 }]".into())?;
    let wrong = discovery(&agent, WEB, "a wrong file", |found| found["trouble"].is_string())?;
    let trouble = wrong["trouble"].as_str().unwrap_or_default();
    ensure!(trouble.contains("a.toml:1:14: backend[0].adress: unknown key"), "{trouble}");
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    fs::remove_file(directory.join("b.json"))?;
    scene.served_by(V4, &["b1", "b2"])?;

    // Without the directory everything stays as it was.
    put("a.toml", toml(1))?;
    discovery(&agent, WEB, "the file is right again", |found| found["trouble"].is_null())?;
    fs::rename(&directory, files.path().join("elsewhere"))?;
    discovery(&agent, WEB, "no directory", |found| found["trouble"].is_string())?;
    scene.served_by(V4, &["b1", "b2"])
}
