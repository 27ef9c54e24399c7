//! Services whose backends fail, come back, start slowly, report load and flap.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::model::Protocol;

const SECOND: Duration = Duration::from_secs(1);

/// A service with backends of weight 100, whose time is what the test says.
struct World {
    lives: Lives,
    now: Instant,
    policy: Policy,
    inputs: Vec<Input>,
    events: Vec<LiveEvent>,
}

fn service() -> ServiceKey {
    let vip = Ipv4Addr::new(203, 0, 113, 10).into();
    ServiceKey { vip, port: Some(80), protocol: Protocol::Tcp }
}

fn key(number: usize) -> BackendKey {
    let address = Ipv4Addr::from_bits(0x0a00_0001 + number as u32).into();
    BackendKey { address, port: None }
}

fn input(number: usize) -> Input {
    Input {
        key: key(number),
        weight: 100,
        backup: false,
        draining: false,
        check: Check::Passing,
        agent: AgentState::default(),
        load: None,
        known_permille: None,
    }
}

impl World {
    fn new(backends: usize, policy: Policy) -> Self {
        let inputs = (0..backends).map(input).collect();
        let (lives, now) = (Lives::default(), Instant::now());
        Self { lives, now, policy, inputs, events: Vec::new() }
    }

    fn update(&mut self) -> Vec<u16> {
        let update = self.lives.update(service(), self.now, &self.policy, &self.inputs);
        self.events.extend(update.events);
        self.permille()
    }

    /// So many seconds later, with a look at each.
    fn after(&mut self, seconds: usize) -> Vec<u16> {
        for _ in 0..seconds {
            self.now += SECOND;
            self.update();
        }
        self.permille()
    }

    fn live(&self, number: usize) -> Live {
        self.lives.of(service(), key(number)).expect("a backend of the service")
    }

    fn permille(&self) -> Vec<u16> {
        (0..self.inputs.len()).map(|number| self.live(number).permille).collect()
    }

    fn alive(&self) -> Vec<bool> {
        (0..self.inputs.len()).map(|number| self.live(number).alive).collect()
    }

    fn fail(&mut self, number: usize) {
        self.inputs[number].check = Check::Failing;
    }

    fn recover(&mut self, number: usize) {
        self.inputs[number].check = Check::Passing;
    }

    fn says(&mut self, number: usize, line: &str) {
        let agent = &mut self.inputs[number].agent;
        *agent = agent.after(&Words::parse(line));
    }
}

fn slow_start() -> Policy {
    Policy { slow_start: SECOND * 30, ..Policy::default() }
}

#[test]
fn who_fails_is_out_and_who_drains_keeps_its_flows() {
    let mut world = World::new(4, Policy::default());
    assert_eq!(world.update(), [1000; 4]);
    world.fail(0);
    world.inputs[1].draining = true;
    world.inputs[2].check = Check::Pending;
    assert_eq!(world.update(), [0, 0, 0, 1000]);
    assert_eq!(world.alive(), [false, true, false, true]);
    assert_eq!(world.live(1).standing, Standing::Draining);
    assert!(world.events.is_empty());
}

#[test]
fn too_few_healthy_ones_are_a_panic() {
    let mut world = World::new(10, Policy::default());
    world.inputs[9].draining = true;
    world.says(8, "maint");
    world.update();
    (0..5).for_each(|number| world.fail(number));
    assert_eq!(world.update(), [0, 0, 0, 0, 0, 1000, 1000, 1000, 0, 0]);
    world.fail(5);
    // Two of eight are left: the ninth drains and the tenth is in maintenance.
    assert_eq!(world.update(), [1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 0, 0]);
    assert_eq!(world.alive(), [true, true, true, true, true, true, true, true, false, true]);
    assert!(world.lives.mode(service()).panic);
    assert_eq!(world.live(0).standing, Standing::Failed);
    world.recover(0);
    assert_eq!(world.update(), [1000, 0, 0, 0, 0, 0, 1000, 1000, 0, 0]);
    let events = [LiveEvent::PanicBegan { healthy_percent: 25 }, LiveEvent::PanicEnded];
    assert_eq!(world.events, events);
}

#[test]
fn a_panic_can_be_switched_off_and_needs_knowledge() {
    let mut world = World::new(2, Policy { panic_percent: 0, ..Policy::default() });
    (0..2).for_each(|number| world.fail(number));
    assert_eq!((world.update(), world.alive()), (vec![0, 0], vec![false, false]));
    world.policy.panic_percent = 30;
    world.inputs[1].check = Check::Pending;
    assert_eq!(world.update(), [0, 0]);
    world.fail(1);
    assert_eq!(world.update(), [1000, 1000]);
    world.inputs[0].draining = true;
    world.inputs[1].draining = true;
    assert_eq!(world.update(), [0, 0], "who is drained is not used");
    assert_eq!(world.alive(), [false, false]);
}

#[test]
fn backups_wait_until_no_other_lives() {
    let mut world = World::new(4, Policy::default());
    world.inputs[2].backup = true;
    world.inputs[3].backup = true;
    assert_eq!(world.update(), [1000, 1000, 0, 0]);
    assert_eq!(world.live(3).standing, Standing::Backup);
    world.fail(0);
    assert_eq!(world.update(), [0, 1000, 0, 0]);
    world.fail(1);
    assert_eq!(world.update(), [0, 0, 1000, 1000]);
    world.fail(2);
    assert_eq!(world.update(), [0, 0, 0, 1000], "a living backup goes before failed ones");
    world.recover(0);
    assert_eq!(world.update(), [1000, 0, 0, 0]);
    assert_eq!(world.alive(), [true, false, false, true]);
    assert_eq!(world.events, [LiveEvent::BackupActive, LiveEvent::BackupIdle]);
    world.fail(0);
    world.fail(3);
    assert_eq!(world.update(), [1000, 1000, 0, 0], "nobody lives: a panic over the others");
}

#[test]
fn a_recovered_backend_starts_slowly() {
    let mut world = World::new(3, slow_start());
    assert_eq!(world.update(), [1000; 3], "all are new: nobody can carry them");
    world.after(40);
    world.fail(0);
    world.after(5);
    world.recover(0);
    assert_eq!(world.update(), [100, 1000, 1000]);
    assert_eq!(world.live(0).standing, Standing::SlowStart);
    let halfway = world.after(15)[0];
    assert!((530..=570).contains(&halfway), "{halfway}");
    assert_eq!(world.after(15), [1000; 3]);
    assert_eq!(world.live(0).standing, Standing::Serving);
}

#[test]
fn a_new_backend_starts_slowly_where_others_carry_it() {
    let mut world = World::new(1, slow_start());
    world.update();
    world.inputs.push(input(1));
    assert_eq!(world.after(1), [1000, 1000], "nobody is warm yet");
    world.after(40);
    world.inputs.extend((2..8).map(input));
    assert_eq!(world.update(), [1000, 1000, 100, 100, 100, 100, 100, 100]);
}

/// Most are back at once after an outage: those that stayed can't carry their load.
#[test]
fn nobody_is_held_back_where_capacity_lacks() {
    let mut world = World::new(5, slow_start());
    world.update();
    world.after(40);
    (0..3).for_each(|number| world.fail(number));
    world.after(5);
    world.recover(0);
    assert_eq!(world.after(1)[0], 1000, "two of five can't carry a third");
    world.after(40);
    world.recover(1);
    assert_eq!(world.after(1)[1], 100);
    world.fail(3);
    world.fail(4);
    assert_eq!(world.update()[1], 1000, "who could carry it is gone");
}

#[test]
fn a_drain_makes_nobody_cold() {
    let mut world = World::new(2, slow_start());
    world.update();
    world.after(40);
    world.inputs[0].draining = true;
    world.after(5);
    world.inputs[0].draining = false;
    assert_eq!(world.update(), [1000, 1000]);
    world.says(0, "maint");
    world.after(5);
    world.says(0, "ready");
    assert_eq!(world.update(), [100, 1000], "whoever was maintained may have been restarted");
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut world = World::new(3, slow_start());
    for (number, known) in [550, 1000, 1000].into_iter().enumerate() {
        world.inputs[number].known_permille = Some(known);
    }
    assert_eq!(world.update(), [550, 1000, 1000]);
    assert_eq!(world.after(16), [1000; 3]);

    let policy = Policy { load: Some(LoadPolicy::default()), ..Policy::default() };
    let mut world = World::new(2, policy);
    world.inputs[0].known_permille = Some(400);
    world.inputs[1].known_permille = Some(1000);
    assert_eq!(world.update(), [400, 1000]);
    let later = world.after(10)[0];
    assert!((400..600).contains(&later), "{later}: without reports it comes back slowly");
    assert_eq!(world.after(100), [1000; 2]);
}

#[test]
fn an_agents_percentage_is_followed_in_steps() {
    let mut world = World::new(2, Policy::default());
    world.says(0, "50%");
    assert_eq!(world.update(), [500, 1000], "it has no flows to move yet");
    world.says(0, "100%");
    assert_eq!(world.after(1), [550, 1000]);
    assert_eq!(world.after(20), [1000, 1000]);
    world.says(0, "up 20%");
    assert_eq!(world.after(1), [950, 1000]);
    assert_eq!(world.after(20), [200, 1000]);
    world.says(0, "0%");
    assert_eq!((world.update(), world.alive()), (vec![0, 1000], vec![true, true]));
    world.says(0, "down # disk full");
    assert_eq!((world.update(), world.alive()), (vec![0, 1000], vec![false, true]));
    world.says(0, "up 100%");
    assert_eq!(world.update(), [1000, 1000]);
}

#[test]
fn who_flaps_is_held_back_unless_nobody_else_lives() {
    let policy = Policy { max_flapping: 2, ..Policy::default() };
    let mut world = World::new(2, policy);
    world.update();
    for _ in 0..3 {
        world.fail(0);
        world.after(1);
        world.recover(0);
        world.after(1);
    }
    assert_eq!(world.events, [LiveEvent::Damped(key(0), SECOND * 30)]);
    assert_eq!((world.permille(), world.alive()), (vec![0, 1000], vec![true, true]));
    assert_eq!(world.live(0).standing, Standing::Damped);
    world.fail(1);
    assert_eq!(world.update(), [1000, 0], "better than none");
    world.recover(1);
    world.after(40);
    assert_eq!(world.permille(), [1000, 1000]);
    assert_eq!(world.events.last(), Some(&LiveEvent::Undamped(key(0))));
}

fn follows_load() -> Policy {
    Policy { load: Some(LoadPolicy::default()), ..Policy::default() }
}

fn reports(input: &mut Input, utilization: f64, at: Instant) {
    input.load = Some(Reported { utilization, at });
}

/// Servers that are as loaded as their share of the work makes them, and `tell` so late.
fn even_out(
    (speeds, delay, seconds): (&[f64], usize, usize),
    policy: Policy,
    tell: fn(&mut Input, f64, Instant),
) -> (Vec<f64>, Vec<Vec<u16>>) {
    let mut world = World::new(speeds.len(), policy);
    let mut past = vec![world.update()];
    let work = 0.5 * speeds.iter().sum::<f64>();
    let utilization = |live: &[u16]| -> Vec<f64> {
        let all: f64 = live.iter().map(|live| f64::from(*live)).sum();
        let share = live.iter().map(|live| f64::from(*live) / all);
        share.zip(speeds).map(|(share, speed)| share * work / speed).collect()
    };
    for second in 0..seconds {
        let seen = utilization(&past[second.saturating_sub(delay)]);
        for (input, utilization) in world.inputs.iter_mut().zip(seen) {
            tell(input, utilization, world.now);
        }
        past.push(world.after(1));
    }
    (utilization(past.last().expect("it began somewhere")), past)
}

#[test]
fn load_is_evened_out_and_then_nothing_moves() {
    for delay in [0, 1, 3, 5, 10] {
        for speeds in [&[1.0, 1.0, 0.5][..], &[2.0, 1.0], &[1.0, 0.25, 1.0, 1.0], &[1.0; 5]] {
            let (utilization, past) = even_out((speeds, delay, 240), follows_load(), reports);
            let mean = utilization.iter().sum::<f64>() / utilization.len() as f64;
            let most = utilization.iter().copied().fold(0.0, f64::max);
            assert!(most <= 1.1 * mean, "{speeds:?}, delay {delay}: {utilization:?}");
            let (settled, last) = (&past[150], &past[240]);
            assert_eq!(settled, last, "{speeds:?}, delay {delay}");
            let full = last.iter().max();
            assert!(full >= Some(&950), "{speeds:?}, delay {delay}: {last:?}");
        }
    }
}

/// What is idle is no set point: it falls with the weight that it sets.
#[test]
fn an_idle_percentage_as_a_set_point_swings() {
    for delay in [1, 3] {
        let world = (&[0.5, 1.0, 1.0][..], delay, 240);
        let (_, past) = even_out(world, Policy::default(), |input, utilization, _| {
            let idle = (100.0 * (1.0 - utilization)).clamp(1.0, 100.0);
            input.agent = input.agent.after(&Words::parse(&format!("{idle:.0}%")));
        });
        let moved = |server: usize| -> u64 {
            let steps = past[180..].windows(2);
            steps.map(|step| u64::from(step[0][server].abs_diff(step[1][server]))).sum()
        };
        assert!(moved(0) > 500, "a minute moves {} thousandths", moved(0));
    }
}

#[test]
fn one_report_alone_compares_with_nothing() {
    let policy = Policy { load: Some(LoadPolicy::default()), ..Policy::default() };
    let mut world = World::new(2, policy);
    world.update();
    for _ in 0..60 {
        world.inputs[0].load = Some(Reported { utilization: 9.0, at: world.now });
        assert_eq!(world.after(1), [1000, 1000]);
    }
}

/// One that always says that it does next to nothing keeps the others from nothing.
#[test]
fn a_backend_that_says_it_idles_stops_nobody_from_being_evened_out() {
    let policy = Policy { load: Some(LoadPolicy::default()), ..Policy::default() };
    let mut world = World::new(4, policy);
    world.update();
    for _ in 0..120 {
        for (number, utilization) in [0.001, 0.95, 0.95, 0.3].into_iter().enumerate() {
            world.inputs[number].load = Some(Reported { utilization, at: world.now });
        }
        world.after(1);
    }
    // It gets what the floor leaves.
    assert_eq!(world.permille(), [1000, 100, 100, 100]);
}

/// What may happen to a backend in a second.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Nothing,
    Fail(usize),
    Recover(usize),
    Drain(usize, bool),
    Say(usize, &'static str),
    Report(usize, f64),
}

fn blow() -> impl Strategy<Value = Blow> {
    let backend = 0..5_usize;
    let words = prop::sample::select(vec![
        "up",
        "down",
        "drain",
        "ready",
        "maint",
        "0%",
        "10%",
        "50%",
        "100%",
        "ready up 75%",
    ]);
    prop_oneof![
        Just(Blow::Nothing),
        backend.clone().prop_map(Blow::Fail),
        backend.clone().prop_map(Blow::Recover),
        (backend.clone(), any::<bool>()).prop_map(|(backend, drain)| Blow::Drain(backend, drain)),
        (backend.clone(), words).prop_map(|(backend, line)| Blow::Say(backend, line)),
        (backend, 0.001..1000.0).prop_map(|(backend, load)| Blow::Report(backend, load)),
    ]
}

proptest! {
    /// Whatever happens: while one may serve and lives, one serves; nobody serves that must not;
    /// and a weight that isn't switched on or off moves by its bound at most.
    #[test]
    fn somebody_serves_as_long_as_somebody_lives(
        blows in proptest::collection::vec(blow(), 1..200),
        slow_start in prop::sample::select(vec![0, 30]),
        panic_percent in prop::sample::select(vec![0, 30, 100]),
        max_flapping in prop::sample::select(vec![0, 1]),
        backups in 0..3_usize,
        load in any::<bool>(),
    ) {
        let mut world = World::new(5, Policy {
            slow_start: SECOND * slow_start,
            panic_percent,
            max_flapping,
            flapping_window: SECOND * 60,
            load: load.then(LoadPolicy::default),
        });
        (0..backups).for_each(|number| world.inputs[number].backup = true);
        let mut before = world.update();
        for blow in blows {
            match blow {
                Blow::Nothing => {}
                Blow::Fail(number) => world.fail(number),
                Blow::Recover(number) => world.recover(number),
                Blow::Drain(number, drain) => world.inputs[number].draining = drain,
                Blow::Say(number, line) => world.says(number, line),
                Blow::Report(number, utilization) => {
                    world.inputs[number].load = Some(Reported { utilization, at: world.now });
                }
            }
            let now = world.after(1);
            let may = |input: &Input| {
                !input.draining && !input.agent.drains()
                    && input.agent.wanted != Wanted::Maintenance
            };
            let works = |input: &Input| input.check == Check::Passing && input.agent.up;
            if world.inputs.iter().any(|input| may(input) && works(input)) {
                prop_assert!(now.iter().any(|live| *live > 0), "{:?}", world.inputs);
            }
            for (number, input) in world.inputs.iter().enumerate() {
                let Live { permille, alive, .. } = world.live(number);
                prop_assert!(permille <= FULL);
                prop_assert!(permille == 0 || may(input) && alive);
                prop_assert!(permille == 0 || works(input) || world.lives.mode(service()).panic);
                if slow_start == 0 && permille > 0 && before[number] > 0 {
                    // Agent and load may each take a step of 5 %, and rounding one of 1 %.
                    prop_assert!(permille.abs_diff(before[number]) <= 120, "{before:?} {now:?}");
                }
            }
            before = now;
        }
    }
}
